//! `nudge dev` with a real NATS server and stand-ins for the services: nothing is left behind.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

const SERVICES: [&str; 3] = ["store-info", "search", "review"];
const DEADLINE: Duration = Duration::from_secs(60);

/// A copy of the program with services beside it that do nothing but run.
struct Demo {
    directory: tempfile::TempDir,
    port_base: u16,
}

impl Demo {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_nudge"), directory.path().join("nudge")).unwrap();
        for service in SERVICES {
            let path = directory.path().join(service);
            let pid = directory.path().join(format!("{service}.pid"));
            let script = format!("#!/bin/sh\necho $$ >'{}'\nexec sleep 600\n", pid.display());
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { directory, port_base: free_port_base() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self) -> Command {
        self.command_in("data")
    }

    fn command_in(&self, data: &str) -> Command {
        let mut command = Command::new(self.path("nudge"));
        command.args(["dev", "--port-base", &self.port_base.to_string()]);
        command.arg("--data-dir").arg(self.path(data));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Starts it and waits until all services run.
    async fn start(&self) -> (Child, Vec<Pid>) {
        let child = self.command().spawn().unwrap();
        let mut pids = Vec::new();
        for service in SERVICES {
            let read = || {
                let text = fs::read_to_string(self.path(&format!("{service}.pid"))).ok()?;
                Pid::from_raw(text.trim().parse().ok()?)
            };
            pids.push(eventually(service, read).await);
        }
        (child, pids)
    }

    /// Waits until nothing of it is left.
    async fn is_gone(&self, pids: Vec<Pid>) {
        for pid in pids {
            eventually("the services end", || (!is_alive(pid)).then_some(())).await;
        }
        let nats = self.port_base + 22;
        let free = || TcpListener::bind(("127.0.0.1", nats)).ok();
        eventually("NATS ends", free).await;
    }
}

fn free_port_base() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = listener.local_addr().unwrap().port();
        drop(listener);
        if base < u16::MAX - 22 && [0, 1, 2, 3, 22].into_iter().all(|offset| free(base + offset)) {
            return base;
        }
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

async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let seen = async {
        loop {
            match look() {
                Some(seen) => return seen,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn ends(child: Child) -> Output {
    tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn a_signal_stops_everything_in_order_and_is_a_success() {
    let demo = Demo::new();
    for sent in [Signal::INT, Signal::TERM] {
        let (child, pids) = demo.start().await;
        signal(&child, sent);
        let output = ends(child).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let place = |text: &str| stderr.find(text).unwrap_or_else(|| panic!("{text}: {stderr}"));
        assert!(place("stopping store-info") < place("stopping NATS"), "{stderr}");
        demo.is_gone(pids).await;
        for service in SERVICES {
            fs::remove_file(demo.path(&format!("{service}.pid"))).unwrap();
        }
    }
    assert!(demo.path("data/nats/jetstream").is_dir(), "the data is kept");
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_child_behind() {
    let demo = Demo::new();
    let (child, pids) = demo.start().await;
    signal(&child, Signal::KILL);
    ends(child).await;
    demo.is_gone(pids).await;
}

#[tokio::test]
async fn a_second_start_on_the_same_data_or_ports_is_refused_before_it_touches_anything() {
    let demo = Demo::new();
    let (child, pids) = demo.start().await;

    let output = ends(demo.command().arg("--fresh").spawn().unwrap()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.lines().last().unwrap().contains("is in use by another `nudge dev`"),
        "{stderr}"
    );

    let output = ends(demo.command_in("other").spawn().unwrap()).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let taken = format!("port {} (NATS) is already in use", demo.port_base + 22);
    assert!(stderr.contains(&taken) && stderr.contains("--port-base"), "{stderr}");
    assert!(!demo.path("other/nats").exists(), "it stopped before it made anything");

    signal(&child, Signal::TERM);
    assert!(ends(child).await.status.success());
    demo.is_gone(pids).await;
}
