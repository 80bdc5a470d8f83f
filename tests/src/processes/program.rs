//! One program as a process of its own.

use std::{
    env,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nudge_test_servers::signal::{self, Signal};

/// Longest time that a program may take to stop: what it gives open requests (5 s), its batches
/// (10 s), and as much again on a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// How a program is started, and its process while there is one. Killed when dropped.
pub struct Program {
    /// What it is called by: see `bin/program.rs`.
    called: &'static str,
    binary: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Program {
    pub(super) fn new(called: &'static str, binary: PathBuf, arguments: Vec<String>) -> Self {
        Self { called, binary, arguments, child: None }
    }

    pub(super) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.called);
        let mut command = Command::new(&self.binary);
        command.arg0(self.called).args(&self.arguments);
        // It ends when this pipe does.
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        if env::var("LOG").is_err() {
            command.stderr(Stdio::null());
        }
        self.child = Some(command.spawn().expect("the program starts"));
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("the program runs")
    }

    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it ended by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child of our own")
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn freeze(&self) {
        signal::freeze(self.child());
    }

    pub(super) fn thaw(&self) {
        signal::thaw(self.child());
    }

    /// Asks it to stop, and waits until it has. Returns how, and after which time.
    pub(super) async fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        signal::send(self.child(), Signal::TERM);
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < STOP_DEADLINE, "{} does not stop", self.called);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
