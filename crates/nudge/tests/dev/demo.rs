//! A `nudge dev` with a real NATS server and stand-ins for the services, or the real ones.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use nudge_testbed::ports::Base;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

pub(crate) const NUDGE: &str = env!("CARGO_BIN_EXE_nudge");
pub(crate) const SERVICES: [&str; 6] =
    ["store-info", "search", "review", "storefront", "favourites", "ads"];
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// From the base to the port of NATS.
const NATS_OFFSET: u16 = 22;

/// The program, and what runs the services for it: a script that notes what it is told, and then is the
/// service that it is called for, or a stand-in.
pub(crate) struct Demo {
    directory: tempfile::TempDir,
    pub(crate) port_base: u16,
    /// That base is nobody else's, also between two starts.
    _base: Base,
}

impl Demo {
    /// Services that do nothing but run.
    pub(crate) fn new() -> Self {
        Self::of("sleep 600".to_owned())
    }

    /// Each with a child of its own, of which nobody else is told.
    pub(crate) fn of_services_with_children() -> Self {
        Self::of("sh -c 'sleep 600 & echo $! >\"$0.child\"; exec sleep 600' \"$2\"".to_owned())
    }

    /// The children of [those](Self::of_services_with_children).
    pub(crate) async fn children(&self) -> Vec<Pid> {
        let child = |service| {
            let text = fs::read_to_string(self.path(&format!("{service}.child"))).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        };
        eventually("each has its child", || {
            let children: Vec<_> = SERVICES.into_iter().filter_map(child).collect();
            (children.len() == SERVICES.len()).then_some(children)
        })
        .await
    }

    /// The real services.
    pub(crate) fn of_real_services() -> Self {
        Self::of(format!("'{NUDGE}' \"$@\""))
    }

    fn of(command: String) -> Self {
        nudge_runtime::tls::install();
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            "#!/bin/sh\ncd '{}'\nprintf %s \"$DATABASE_URL\" >\"$2.url\"\necho $$ >\"$2.pid\"\nexec {command}\n",
            directory.path().display(),
        );
        let (text, path) =
            (directory.path().join("services.sh"), directory.path().join("services"));
        fs::write(&text, script).unwrap();
        // By another process: a child of a test beside this one could keep a file that this process has open
        // for writing, and nobody may execute such a file.
        let copied = std::process::Command::new("cp").arg(&text).arg(&path).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let base = Base::free(&[0, 1, 2, 3, 4, 5, 6, NATS_OFFSET]);
        Self { directory, port_base: base.port(), _base: base }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        self.command_in("data")
    }

    pub(crate) fn command_in(&self, data: &str) -> Command {
        let mut command = Command::new(NUDGE);
        command.args(["dev", "--port-base", &self.port_base.to_string()]);
        command.arg("--services").arg(self.path("services"));
        command.arg("--data-dir").arg(self.path(data));
        command.env_remove("NUDGE_DATABASE_URL").env_remove("NUDGE_DATABASE_URL_FILE");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// The same with so few files that it may have open.
    pub(crate) fn command_with_files(&self, most: usize) -> Command {
        let usual = self.command();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        command.arg(NUDGE).args(usual.as_std().get_args());
        command.env_remove("NUDGE_DATABASE_URL");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Starts it and waits until all services run.
    pub(crate) async fn start(&self) -> (Child, Vec<Pid>) {
        self.start_with(&[]).await
    }

    /// [`start`](Self::start) with further arguments.
    pub(crate) async fn start_with(&self, args: &[&str]) -> (Child, Vec<Pid>) {
        let mut command = self.command();
        command.args(args);
        self.spawn(command).await
    }

    /// Starts what one of the above has made, and waits until all services run.
    pub(crate) async fn spawn(&self, mut command: Command) -> (Child, Vec<Pid>) {
        let mut child = command.spawn().unwrap();
        let pid = |service| {
            let text = fs::read_to_string(self.path(&format!("{service}.pid"))).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        };
        let up = async {
            loop {
                let pids: Vec<_> = SERVICES.into_iter().filter_map(pid).collect();
                if pids.len() == SERVICES.len() {
                    return pids;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let pids = tokio::select! {
            pids = up => Some(pids),
            _ = child.wait() => None,
            () = tokio::time::sleep(DEADLINE) => None,
        };
        match pids {
            Some(pids) => (child, pids),
            None => self.tell_why_it_is_not_up(child).await,
        }
    }

    /// Panics with all that it and its children have said.
    async fn tell_why_it_is_not_up(&self, mut child: Child) -> ! {
        let ended = child.try_wait().unwrap();
        let _ = child.start_kill();
        let said = ends(child).await.stderr;
        let mut why = format!("the demo is not up, {ended:?}: {}", String::from_utf8_lossy(&said));
        for log in fs::read_dir(self.path("data/logs")).into_iter().flatten().flatten() {
            let text = fs::read(log.path()).unwrap_or_default();
            why += &format!("\n{:?}: {}", log.file_name(), String::from_utf8_lossy(&text));
        }
        panic!("{why}");
    }

    /// Stops what [`start`](Self::start) began, and waits until nothing of it is left.
    pub(crate) async fn stop(&self, (child, pids): (Child, Vec<Pid>)) -> Output {
        signal(&child, Signal::TERM);
        let output = ends(child).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.is_gone(pids).await;
        for service in SERVICES {
            fs::remove_file(self.path(&format!("{service}.pid"))).unwrap();
        }
        output
    }

    /// What a start says that is refused, which is one line, after those on its progress.
    pub(crate) async fn refusal(&self, args: &[&str], code: i32) -> String {
        let output = ends(self.command().args(args).spawn().unwrap()).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let said: Vec<_> = stderr.lines().filter(|line| !line.starts_with("dev: ")).collect();
        let [line] = said[..] else { panic!("one line: {stderr}") };
        line.strip_prefix("error: ").unwrap_or_else(|| panic!("{stderr}")).to_owned()
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn is_gone(&self, pids: Vec<Pid>) {
        for pid in pids {
            eventually("the services end", || (!is_alive(pid)).then_some(())).await;
        }
        let nats = self.port_base + NATS_OFFSET;
        let free = || TcpListener::bind(("127.0.0.1", nats)).ok();
        eventually("NATS ends", free).await;
    }
}

fn is_alive(pid: Pid) -> bool {
    // Whoever is ended but not yet waited for by its new parent counts as gone.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    match (Path::new("/proc/self/stat").exists(), stat) {
        (true, Ok(stat)) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        (true, Err(_)) => false,
        (false, _) => rustix::process::test_kill_process(pid).is_ok(),
    }
}

pub(crate) async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let seen = async {
        loop {
            match look() {
                Some(seen) => return seen,
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub(crate) async fn ends(child: Child) -> Output {
    tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
    kill_process(pid, signal).unwrap();
}
