//! A program as a child process that can be killed, stopped and frozen.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nudge_runtime::{auth, broker, tls, traces};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::process::{Child, ChildStdin, Command};

pub mod guard;

pub use guard::{Guard, STOP_PATIENCE};

/// How long a frozen program may take until all its threads are.
const FREEZE_PATIENCE: Duration = Duration::from_millis(250);
const FREEZE_POLL: Duration = Duration::from_millis(1);
/// How long it is thawed before it is frozen once more.
const FREEZE_PAUSE: Duration = Duration::from_millis(10);

/// What [`Program::freeze`] waits for, without taking note of it.
const FROZEN_OR_ENDED: WaitIdOptions = WaitIdOptions::STOPPED
    .union(WaitIdOptions::EXITED)
    .union(WaitIdOptions::NOWAIT)
    .union(WaitIdOptions::NOHANG);

/// How a program is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name, for people.
    pub name: String,
    /// Its executable.
    pub exe: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Additions to our environment.
    pub env: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub output: Output,
    /// Whether it has a standard input, which is open until it is killed or we end, however we end. Otherwise
    /// it is empty.
    pub holds_input: bool,
    /// Whether it has its own process group. A Ctrl-C at the terminal then reaches only us, and it
    /// ends when we end it. Otherwise Ctrl-C ends it, too.
    pub own_group: bool,
    /// Whether [`Program::set_disk_full`] may be used on it. Its log is then written by us: a file that it
    /// writes itself could not be written to either.
    pub disk_may_be_full: bool,
    /// Ends it when we can no longer do so. It then has the guard's process group, and only itself gets our signals.
    pub guard: Option<Guard>,
    /// Whether the guard ends it after the others.
    pub last: bool,
}

/// Where a program's output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Nowhere,
    /// Its standard error goes where ours goes; its standard output goes nowhere.
    Ours,
    /// To the end of this file.
    Log(PathBuf),
}

impl Launch {
    /// A program of this name, whose process group is its own and whose output goes to this file.
    pub fn new(name: impl Into<String>, exe: impl Into<PathBuf>, output: Output) -> Self {
        Self {
            name: name.into(),
            exe: exe.into(),
            args: Vec::new(),
            env: Vec::new(),
            output,
            holds_input: false,
            own_group: true,
            disk_may_be_full: false,
            guard: None,
            last: false,
        }
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = match self.disk_may_be_full {
            false => Command::new(&self.exe),
            true => {
                // Ignored signals stay ignored in what is executed: a file that may not grow is then
                // an error for the program that writes, and not its end.
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(&self.exe);
                shell
            }
        };
        // Its credentials, whose it asks for, and where its traces go are set here, not by our own environment.
        let set_here =
            [&broker::LOGIN_VARIABLES[..], &auth::VARIABLES, &tls::VARIABLES, &traces::VARIABLES];
        for name in set_here.into_iter().flatten().chain(&["DATABASE_URL_FILE"]) {
            command.env_remove(name);
        }
        // A person reads these logs, though they go to a file.
        if std::env::var_os("LOG_FORMAT").is_none() {
            command.env("LOG_FORMAT", "text");
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(if self.holds_input { Stdio::piped() } else { Stdio::null() });
        let (out, err) = match &self.output {
            Output::Nowhere => (Stdio::null(), Stdio::null()),
            Output::Ours => (Stdio::null(), Stdio::inherit()),
            Output::Log(_) if self.disk_may_be_full => (Stdio::null(), Stdio::piped()),
            Output::Log(path) => {
                let log = OpenOptions::new().create(true).append(true).open(path)?;
                (log.try_clone()?.into(), log.into())
            }
        };
        command.stdout(out).stderr(err);
        match &self.guard {
            Some(guard) => {
                command.process_group(guard.group());
            }
            None if self.own_group => {
                command.process_group(0);
            }
            None => {}
        }
        // If we panic, nothing stays behind.
        command.kill_on_drop(true);
        Ok(command)
    }
}

/// A program, and its process while there is one. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    launch: Launch,
    child: Option<Child>,
    /// Not left to the process: to wait for that would end it.
    input: Option<ChildStdin>,
    /// Its process as the guard knows it.
    guarded: Option<u32>,
    started: Instant,
}

impl Program {
    /// A program that is not started yet.
    pub fn new(launch: Launch) -> Self {
        Self { launch, child: None, input: None, guarded: None, started: Instant::now() }
    }

    /// How it is started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Sets an environment variable for its next start.
    pub fn set_env(&mut self, name: &'static str, value: &str) {
        self.launch.env.retain(|(set, _)| *set != name);
        self.launch.env.push((name, value.to_owned()));
    }

    /// Starts it, with nothing left of the previous process.
    ///
    /// # Errors
    ///
    /// If its log cannot be opened, or it cannot be executed. Nothing has changed then.
    pub fn start(&mut self) -> io::Result<()> {
        self.started = Instant::now();
        let mut command = self.launch.command()?;
        let log = match (&self.launch.output, self.launch.disk_may_be_full) {
            (Output::Log(path), true) => Some(path),
            _ => None,
        };
        let log = log.map(|path| OpenOptions::new().create(true).append(true).open(path));
        let log = log.transpose()?;
        let mut child = command.spawn()?;
        if let (Some(mut said), Some(log)) = (child.stderr.take(), log) {
            let mut log = tokio::fs::File::from_std(log);
            tokio::spawn(async move { tokio::io::copy(&mut said, &mut log).await });
        }
        self.kill();
        self.guarded = child.id();
        if let (Some(guard), Some(pid)) = (&self.launch.guard, self.guarded) {
            guard.add(pid, self.launch.last);
        }
        self.input = child.stdin.take();
        self.child = Some(child);
        Ok(())
    }

    /// When it was last started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its process ID, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Whether it was started, and not ended by us since. It may have ended by itself.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// If it was not started, or is lost.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let child = self.child.as_mut().ok_or_else(|| io::Error::other("it was not started"))?;
        let ended = child.wait().await;
        self.forget();
        ended
    }

    /// Kills it (SIGKILL), and waits for its end, which is almost immediate.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let (Some(pid), Some(child)) = (self.pid(), &mut self.child) {
            // What is only waited for here is then taken note of.
            let ends = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = (waitid(WaitId::Pid(pid), ends), child.try_wait());
        }
        self.forget();
    }

    /// Asks it to stop (SIGTERM), and kills it if it has not after this time. Returns how it ended; `None`
    /// if it had to be killed, or did not run.
    pub async fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        // A frozen program does not stop.
        self.thaw();
        self.signal(Signal::TERM);
        let child = self.child.as_mut()?;
        let ended = tokio::time::timeout(patience, child.wait()).await;
        self.kill();
        ended.ok()?.ok()
    }

    /// Freezes it (SIGSTOP), and returns once all its threads are frozen. False if it is not running.
    ///
    /// A program that is just starting a child by `vfork` cannot be frozen before the child executes something, and a
    /// child in the same process group that was frozen first never does. So it is thawed and frozen again.
    #[expect(
        clippy::disallowed_methods,
        reason = "it takes a moment, and what is frozen is not simulated"
    )]
    pub fn freeze(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        loop {
            self.signal(Signal::STOP);
            let sent = Instant::now();
            while sent.elapsed() < FREEZE_PATIENCE {
                match waitid(WaitId::Pid(pid), FROZEN_OR_ENDED) {
                    Ok(Some(status)) => return status.stopped(),
                    Ok(None) => std::thread::sleep(FREEZE_POLL),
                    Err(_) => return false,
                }
            }
            self.signal(Signal::CONT);
            // Time for the child to execute it.
            std::thread::sleep(FREEZE_PAUSE);
        }
    }

    /// Thaws it (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Allows or forbids writing to its files: if forbidden, no write succeeds, not even in place. Only for a program that
    /// is started so that this [may happen](Launch::disk_may_be_full).
    ///
    /// It is a limit on the length of files (RLIMIT_FSIZE, 0 bytes), so a write gets EFBIG, "file too
    /// large", where a file system that is full gives ENOSPC. To SQLite that is an I/O error (778,
    /// IOERR_WRITE) and not "database or disk is full" (13, FULL), which `the_read_model_is_full` in
    /// `tests/tests/faults` is about. The kit tries again after either.
    ///
    /// # Errors
    ///
    /// If it is not running, or this system does not support it.
    #[cfg(target_os = "linux")]
    pub fn set_disk_full(&self, full: bool) -> Result<(), String> {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let usual = getrlimit(Resource::Fsize);
        let limit = if full { Rlimit { current: Some(0), ..usual } } else { usual };
        let pid = self.pid().ok_or("it does not run")?;
        let set = prlimit(Some(pid), Resource::Fsize, limit);
        set.map(drop).map_err(|error| format!("its files cannot be limited: {error}"))
    }

    /// Other systems have no way to do this to another process.
    ///
    /// # Errors
    ///
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn set_disk_full(&self, _full: bool) -> Result<(), String> {
        Err("only Linux can limit the files of another process".to_owned())
    }

    /// None when it does not run, or has ended and was taken note of.
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.as_ref()?.id()?.cast_signed())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have just ended.
            let _ = match self.launch.own_group && self.launch.guard.is_none() {
                true => kill_process_group(pid, signal),
                false => kill_process(pid, signal),
            };
        }
    }

    /// There is no process any more.
    fn forget(&mut self) {
        (self.child, self.input) = (None, None);
        if let (Some(guard), Some(pid)) = (&self.launch.guard, self.guarded.take()) {
            guard.remove(pid);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests;
