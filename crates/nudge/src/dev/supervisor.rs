//! Keeps a child process running: log file, restart, orderly stop.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{guard::Guard, talk::Talk};

/// Longest time that a child gets to stop by itself.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// Pause before a child is started again; doubles up to [`MAX_RESTART_DELAY`].
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(10);
/// A child that ran this long starts again with the shortest pause.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How much of a dead child's log is looked at, in bytes.
const TAIL_BYTES: u64 = 8 * 1024;
/// How many lines of it are shown.
const TAIL_LINES: usize = 8;

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Its name, for people.
    pub(super) name: &'static str,
    pub(super) exe: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub(super) log: PathBuf,
    /// Whether it is stopped after the others.
    pub(super) last: bool,
    /// Counts how often it had to be started again.
    pub(super) restarts: Arc<AtomicU64>,
}

/// Runs `program` until `stop` is cancelled, and starts it again whenever it dies.
pub(super) async fn supervise(program: Program, stop: CancellationToken, guard: Guard, talk: Talk) {
    rotate(&program.log);
    let mut delay = MIN_RESTART_DELAY;
    loop {
        let began = Instant::now();
        let log_before = fs::metadata(&program.log).map_or(0, |found| found.len());
        let ended = match spawn(&program) {
            Err(error) => format!("cannot be started: {error}"),
            Ok(mut child) => {
                let pid = child.id();
                pid.inspect(|pid| guard.add(*pid, program.last));
                let ended = tokio::select! {
                    status = child.wait() => Some(describe(status)),
                    () = stop.cancelled() => {
                        end(&mut child, &program, &talk).await;
                        None
                    }
                };
                pid.inspect(|pid| guard.remove(*pid));
                match ended {
                    Some(ended) => ended,
                    None => return,
                }
            }
        };
        if began.elapsed() > STEADY_AFTER {
            delay = MIN_RESTART_DELAY;
        }
        let again = delay.as_secs();
        let log = program.log.display();
        talk.say(&format!("{} {ended}; starting it again in {again} s (log: {log})", program.name));
        for line in tail(&program.log, log_before) {
            talk.say(&format!("  | {line}"));
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(MAX_RESTART_DELAY);
        program.restarts.fetch_add(1, Relaxed);
    }
}

fn spawn(program: &Program) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&program.log)?;
    Command::new(&program.exe)
        .args(&program.args)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Its own group: a Ctrl-C at the terminal reaches us alone, and we stop in our order.
        .process_group(0)
        // When we panic, nothing stays behind.
        .kill_on_drop(true)
        .spawn()
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("has ended ({status})"),
        Err(error) => format!("is lost ({error})"),
    }
}

/// Asks the child to stop, and insists after [`STOP_PATIENCE`].
async fn end(child: &mut Child, program: &Program, talk: &Talk) {
    let signal = |child: &Child, signal| {
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It may have ended just now.
            let _ = kill_process_group(pid, signal);
        }
    };
    signal(child, Signal::TERM);
    if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        let seconds = STOP_PATIENCE.as_secs();
        talk.say(&format!("{} did not stop within {seconds} s and is killed", program.name));
        signal(child, Signal::KILL);
        let _ = child.wait().await;
    }
}

/// Each start of the demo begins new logs and keeps those of the start before.
fn rotate(log: &Path) {
    // There is none at the first start.
    let _ = fs::rename(log, log.with_extension("previous.log"));
}

/// The last lines of a log, from `from` on: what this run of the child has written.
fn tail(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
