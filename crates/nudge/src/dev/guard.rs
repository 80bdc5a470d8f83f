//! A last resort against orphans: a second process that ends the children when `nudge dev` itself is
//! killed and can no longer do so.
//!
//! It reads from a pipe which processes run. However `nudge dev` ends, the pipe closes; whoever is
//! still on the list then is stopped, services before NATS. It also holds the data directory's lock
//! until it is done, so that a new start does not meet the old processes.

use std::{
    io::{BufRead, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::{data_dir::DataDir, supervisor::STOP_PATIENCE};
use crate::failure::Failure;

/// The hidden verb that runs [`run`].
pub(crate) const VERB: &str = "dev-guard";
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The guard, seen from `nudge dev`. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Guard(Arc<Mutex<Child>>);

impl Guard {
    /// Starts the guard.
    pub(crate) fn start(exe: &Path, data: &DataDir) -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format!("cannot start {}: {error}", exe.display()));
        let child = Command::new(exe)
            .arg(VERB)
            .stdin(Stdio::piped())
            // Not to be written to: this is how the lock is handed on.
            .stdout(data.share_lock().map_err(failed)?)
            .stderr(Stdio::null())
            // Its own group: a Ctrl-C at the terminal must not reach it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self(Arc::new(Mutex::new(child))))
    }

    /// A child with a process group of its own runs. `last` is stopped after the others.
    pub(crate) fn add(&self, pid: u32, last: bool) {
        self.tell(&format!("+{pid} {}", u8::from(last)));
    }

    /// It has ended.
    pub(crate) fn remove(&self, pid: u32) {
        self.tell(&format!("-{pid}"));
    }

    fn tell(&self, line: &str) {
        let mut child = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pipe) = &mut child.stdin {
            // A guard that is gone guards nothing; the demo goes on without it.
            let _ = writeln!(pipe, "{line}");
        }
    }

    /// Ends the guard, which ends what is left, and waits for it.
    pub(crate) fn finish(&self) {
        let mut child = self.0.lock().unwrap_or_else(|e| e.into_inner());
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

/// The guard itself.
pub(crate) fn run() {
    let mut children: Vec<(Pid, bool)> = Vec::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        note(&mut children, &line);
    }
    for last in [false, true] {
        stop(children.iter().filter(|child| child.1 == last).map(|child| child.0).collect());
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

fn stop(groups: Vec<Pid>) {
    let deadline = Instant::now() + STOP_PATIENCE;
    for &group in &groups {
        let _ = kill_process_group(group, Signal::TERM);
    }
    let lives = |group: &&Pid| test_kill_process_group(**group).is_ok();
    while groups.iter().any(|group| lives(&group)) && Instant::now() < deadline {
        // No runtime runs here, and nothing else waits for this thread.
        #[expect(clippy::disallowed_methods, reason = "the guard is one thread without a runtime")]
        std::thread::sleep(POLL_INTERVAL);
    }
    for group in groups.iter().filter(lives) {
        let _ = kill_process_group(*group, Signal::KILL);
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
