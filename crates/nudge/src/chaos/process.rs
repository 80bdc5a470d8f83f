//! A program of the demo as a process of ours, to which things can happen.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncRead,
    process::{Child, Command},
};

use crate::dev::{guard::Guard, supervisor::STOP_PATIENCE};

/// A program that ended by itself is not started again sooner than this after its last start.
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);

/// How a program is started, and its process while there is one.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) exe: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(&'static str, String)>,
    pub(super) log: PathBuf,
    pub(super) guard: Guard,
    /// Whether it is stopped after the others.
    pub(super) last: bool,
    pub(super) child: Option<Child>,
    /// As the guard knows it.
    pub(super) guarded: Option<u32>,
    pub(super) started: Instant,
}

impl Program {
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.started = Instant::now();
        let failed = |error: std::io::Error| format!("{} cannot be started: {error}", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        // Ignored signals stay ignored in what is executed: a file that may not grow is then an
        // error for the program that writes, and not its end.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(&self.exe)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Not the file itself, which could not be written to either.
            .stderr(Stdio::piped())
            // Its own group: a Ctrl-C at the terminal reaches us alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep(stderr, log.into()));
        }
        if let Some(before) = self.guarded.take() {
            self.guard.remove(before);
        }
        self.guarded = child.id();
        self.guarded.inspect(|pid| self.guard.add(*pid, self.last));
        self.child = Some(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have ended just now.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.as_ref()?.id()?.cast_signed())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.reap().await;
    }

    /// SIGTERM, and SIGKILL if that takes too long.
    pub(super) async fn stop(&mut self) {
        self.thaw();
        self.signal(Signal::TERM);
        if let Some(child) = &mut self.child {
            let _ = tokio::time::timeout(STOP_PATIENCE, child.wait()).await;
        }
        self.kill().await;
    }

    async fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait().await;
        }
        if let Some(pid) = self.guarded.take() {
            self.guard.remove(pid);
        }
    }

    /// SIGSTOP.
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it ended by itself. It is started again then.
    pub(super) fn revive(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        if self.started.elapsed() < MIN_RESTART_DELAY {
            return None;
        }
        // If this fails, the next look tries again: the ended child is still there.
        let _ = self.start();
        Some(status)
    }

    /// Lets it write to its files, or not: no write succeeds then, not even in place.
    ///
    /// It is a limit on the length of files (RLIMIT_FSIZE, 0 bytes), so a write gets EFBIG, "file too
    /// large", where a file system that is full gives ENOSPC. To SQLite that is an I/O error (778,
    /// IOERR_WRITE) and not "database or disk is full" (13, FULL), which `the_read_model_is_full` in
    /// `tests/tests/faults` is about. The kit tries again after either.
    #[cfg(target_os = "linux")]
    pub(super) fn set_disk_full(&self, full: bool) -> Result<(), String> {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let usual = getrlimit(Resource::Fsize);
        let limit = if full { Rlimit { current: Some(0), ..usual } } else { usual };
        let pid = self.pid().ok_or("it does not run")?;
        let set = prlimit(Some(pid), Resource::Fsize, limit);
        set.map(drop).map_err(|error| format!("its files cannot be limited: {error}"))
    }

    /// There is no way to do this to another process here.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn set_disk_full(&self, _full: bool) -> Result<(), String> {
        Err("only Linux can limit the files of another process".to_owned())
    }
}

/// Writes to the log what the program says.
async fn keep(mut from: impl AsyncRead + Unpin, mut log: tokio::fs::File) {
    let _ = tokio::io::copy(&mut from, &mut log).await;
}
