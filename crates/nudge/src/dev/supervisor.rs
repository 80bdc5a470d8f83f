//! Keeps a program running: log file, restart, orderly stop.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nudge_runtime::logs::harmless;
use nudge_testbed::{
    Program,
    program::{Guard, Launch, Output, STOP_PATIENCE},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::talk::Talk;

/// Pause before a child is restarted; doubles up to [`MAX_RESTART_DELAY`].
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
/// Longest such pause.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(10);
/// A child that ran this long is restarted after the shortest pause.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How much of a dead child's log is read, in bytes.
const TAIL_BYTES: u64 = 8 * 1024;
/// How many lines of it are shown.
const TAIL_LINES: usize = 8;

/// A program that is kept running.
pub(super) struct Kept {
    program: Program,
    log: PathBuf,
    restarts: Arc<AtomicU64>,
    /// Whether it is to be down.
    down: watch::Sender<bool>,
}

impl Kept {
    /// A program with a log, not started yet.
    pub(super) fn new(launch: Launch, guard: &Guard) -> Self {
        let Output::Log(log) = &launch.output else { unreachable!("each has a log") };
        let log = log.clone();
        let program = Program::new(Launch { guard: Some(guard.clone()), ..launch });
        Self { program, log, restarts: Arc::default(), down: watch::Sender::new(false) }
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> &str {
        &self.program.launch().name
    }

    /// How it is started.
    pub(super) fn launch(&self) -> &Launch {
        self.program.launch()
    }

    /// Kills it with `true`, and starts it again with `false`.
    pub(super) fn down(&self) -> watch::Sender<bool> {
        self.down.clone()
    }

    /// Counts its restarts.
    pub(super) fn restarts(&self) -> Arc<AtomicU64> {
        self.restarts.clone()
    }
}

/// Runs a program until `stop` is cancelled, and restarts it whenever it dies.
pub(super) async fn supervise(kept: Kept, stop: CancellationToken, talk: Talk) {
    let Kept { mut program, log, restarts, down: switch } = kept;
    let mut down = switch.subscribe();
    rotate(&log);
    let mut delay = MIN_RESTART_DELAY;
    loop {
        let began = Instant::now();
        let log_before = fs::metadata(&log).map_or(0, |found| found.len());
        let ended = match program.start() {
            Err(error) => Some(format!("cannot be started: {error}")),
            Ok(()) => tokio::select! {
                status = program.wait() => Some(describe(status)),
                () = stop.cancelled() => return end(&mut program, &talk).await,
                _ = becomes(&mut down, true) => None,
            },
        };
        let Some(ended) = ended else {
            program.kill();
            talk.say(&format!("{} was killed on purpose", program.launch().name));
            tokio::select! {
                _ = becomes(&mut down, false) => continue,
                () = stop.cancelled() => return,
            }
        };
        if began.elapsed() > STEADY_AFTER {
            delay = MIN_RESTART_DELAY;
        }
        let (name, again, path) = (&program.launch().name, delay.as_secs(), log.display());
        talk.say(&format!("{name} {ended}; restarting it in {again} s (log: {path})"));
        for line in tail(&log, log_before) {
            talk.say(&format!("  | {line}"));
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(MAX_RESTART_DELAY);
        restarts.fetch_add(1, Relaxed);
    }
}

/// Waits until it is this.
async fn becomes(down: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    down.wait_for(|down| *down == wanted).await.is_ok()
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended ({status})"),
        Err(error) => format!("was lost ({error})"),
    }
}

/// Asks it to stop, and kills it after [`STOP_PATIENCE`].
async fn end(program: &mut Program, talk: &Talk) {
    if program.stop(STOP_PATIENCE).await.is_none() {
        let (name, seconds) = (&program.launch().name, STOP_PATIENCE.as_secs());
        talk.say(&format!("{name} did not stop within {seconds} s and was killed"));
    }
}

/// Each start of the demo begins new logs and keeps the previous ones.
fn rotate(log: &Path) {
    // There is none at the first start.
    let _ = fs::rename(log, log.with_extension("previous.log"));
}

/// The last lines of a log, from `from` on: what this run of the child wrote.
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
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    // NATS' log is not ours.
    last.iter().map(|line| harmless(line).into_owned()).collect()
}

#[cfg(test)]
mod tests;
