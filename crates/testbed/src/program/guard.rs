//! A last resort against orphans: a second process that ends the programs if their parent is
//! itself killed and can no longer do so.
//!
//! It reads from a pipe which processes are running. However its parent ends, the pipe closes; the processes still on
//! the list are then stopped, in order. All have the guard's process group, which it kills at the very end: its parent may
//! have been killed between starting a process and reporting it.

use std::{
    ffi::OsStr,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, kill_process, kill_process_group, test_kill_process,
};

/// Time that a program gets to stop by itself, whoever asks it to.
pub const STOP_PATIENCE: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The guard's handle in its parent. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Mutex<Child>>);

impl Guard {
    /// Starts the guard: a program that is told by `verb` to call [`run`]. What it is given to `hold`, such
    /// as the handle of a lock, is held until it is done.
    ///
    /// # Errors
    ///
    /// If it cannot be executed.
    pub fn start(exe: &Path, verb: impl AsRef<OsStr>, hold: impl Into<Stdio>) -> io::Result<Self> {
        let child = Command::new(exe)
            .arg(verb)
            .stdin(Stdio::piped())
            // Not to be written to: this is how something is handed on.
            .stdout(hold)
            .stderr(Stdio::null())
            // Its own group: a Ctrl-C at the terminal must not reach it.
            .process_group(0)
            .spawn()?;
        Ok(Self(Arc::new(Mutex::new(child))))
    }

    /// The process group of all that it guards.
    pub(super) fn group(&self) -> i32 {
        self.0.lock().id().cast_signed()
    }

    /// Reports that a program is running. One that is `last` is stopped after the others.
    pub fn add(&self, pid: u32, last: bool) {
        self.tell(&format!("+{pid} {}", u8::from(last)));
    }

    /// Reports that it has ended.
    pub fn remove(&self, pid: u32) {
        self.tell(&format!("-{pid}"));
    }

    fn tell(&self, line: &str) {
        let mut child = self.0.lock();
        if let Some(pipe) = &mut child.stdin {
            // Without the guard, everything else continues.
            let _ = writeln!(pipe, "{line}");
        }
    }

    /// Ends the guard, which ends what is left, and waits for it.
    pub fn finish(&self) {
        let mut child = self.0.lock();
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

/// The guard itself. Once its input and every process on its list have ended, it kills its process group, itself
/// included, if that is its own.
pub fn run() {
    let mut children: Vec<(Pid, bool)> = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        note(&mut children, &line);
    }
    for last in [false, true] {
        stop(children.iter().filter(|child| child.1 == last).map(|child| child.0).collect());
    }
    if getpgrp() == getpid() {
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    }
}

fn note(children: &mut Vec<(Pid, bool)>, line: &str) {
    let (sign, rest) = line.split_at_checked(1).unwrap_or_default();
    let (pid, last) = rest.split_once(' ').unwrap_or((rest, "0"));
    let pid = pid.parse().ok().filter(|number| *number > 0);
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return;
    };
    children.retain(|child| child.0 != pid);
    if sign == "+" {
        children.push((pid, last == "1"));
    }
}

fn stop(programs: Vec<Pid>) {
    let deadline = Instant::now() + STOP_PATIENCE;
    for &program in &programs {
        let _ = kill_process(program, Signal::TERM);
    }
    let lives = |program: &&Pid| test_kill_process(**program).is_ok();
    while programs.iter().any(|program| lives(&program)) && Instant::now() < deadline {
        // No runtime runs here, and nothing else waits for this thread.
        #[expect(clippy::disallowed_methods, reason = "the guard is one thread without a runtime")]
        std::thread::sleep(POLL_INTERVAL);
    }
    for program in programs.iter().filter(lives) {
        let _ = kill_process(*program, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_follows_what_it_is_told() {
        let mut children = Vec::new();
        let lines = ["+10 0", "+11 1", "+12 0", "-10", "", "nonsense", "+0 0", "+-4 0", "-99"];
        for line in lines {
            note(&mut children, line);
        }
        let pid = |number| Pid::from_raw(number).unwrap();
        assert_eq!(children, [(pid(11), true), (pid(12), false)]);
    }

    #[test]
    fn what_is_left_is_stopped() {
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        stop(vec![pid]);
        assert!(!reaper.join().unwrap().success());
    }
}
