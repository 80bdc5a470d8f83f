//! The progress of an import.
//!
//! Bytes sent say little: a megabyte fits into the buffers between us and the owner. The owner
//! counts in its metrics what it has written; otherwise bytes sent have to do.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use reqwest::Method;

use crate::client::{Api, Service};

/// Interval between requests to the owner.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of one request.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between progress lines without a terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// The owner's counters of finished lines.
const COUNTERS: [&str; 2] = ["store_info_writes_total", "store_info_import_rejected_lines_total"];

/// What has been sent.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent_bytes: AtomicU64,
    sent_lines: AtomicU64,
}

impl Counts {
    /// These bytes are sent.
    pub(super) fn sent(&self, bytes: &[u8]) {
        self.sent_bytes.fetch_add(bytes.len() as u64, Relaxed);
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.sent_lines.fetch_add(lines as u64, Relaxed);
    }

    /// Lines that were sent, those whose end was.
    pub(super) fn lines(&self) -> u64 {
        self.sent_lines.load(Relaxed)
    }
}

/// A progress bar on a terminal, occasional lines elsewhere; both on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) counts: Arc<Counts>,
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// Starts to show progress for input of this size.
    pub(super) async fn start(api: &Api, size: Option<u64>) -> Self {
        let template = match size {
            Some(_) => "importing {bar:30.cyan} {binary_bytes} of {binary_total_bytes}  {eta}",
            None => "importing {spinner} {binary_bytes}  {elapsed}",
        };
        let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        let counts = Arc::<Counts>::default();
        let before = done_lines(api).await;
        let task = tokio::spawn(show(api.clone(), bar.clone(), counts.clone(), before, size));
        Self { counts, bar, task }
    }

    /// Removes the bar.
    pub(super) fn end(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

async fn show(
    api: Api,
    bar: ProgressBar,
    counts: Arc<Counts>,
    before: Option<u64>,
    size: Option<u64>,
) {
    let drawn = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    loop {
        tokio::time::sleep(ASK_INTERVAL).await;
        let done = done_lines(&api).await.zip(before).map(|(now, before)| now - before.min(now));
        let (bytes, lines) = (counts.sent_bytes.load(Relaxed), counts.sent_lines.load(Relaxed));
        let position = position(bytes, lines, done);
        bar.set_position(position);
        if !drawn && told.elapsed() > REPORT_INTERVAL {
            told = Instant::now();
            let of = size.map(|size| format!(" of {}", BinaryBytes(size))).unwrap_or_default();
            eprintln!("importing: {}{of}", BinaryBytes(position));
        }
    }
}

/// Bytes of the file that are done: those sent, scaled by the share of finished lines.
fn position(sent_bytes: u64, sent_lines: u64, done_lines: Option<u64>) -> u64 {
    match done_lines {
        // Someone else may be writing as well, so `done` may exceed what we sent.
        Some(done) if done < sent_lines => {
            (u128::from(sent_bytes) * u128::from(done) / u128::from(sent_lines)) as u64
        }
        _ => sent_bytes,
    }
}

/// How many lines the owner has finished since its start.
async fn done_lines(api: &Api) -> Option<u64> {
    let request = api.long_request(Method::GET, api.of(Service::StoreInfo), "/metrics");
    let answer = api.expect(api.of(Service::StoreInfo), request.timeout(ASK_TIMEOUT)).await.ok()?;
    sum(&answer.text().await.ok()?)
}

/// The sum of all samples of [`COUNTERS`]; `None` when there is none.
fn sum(metrics: &str) -> Option<u64> {
    let value = |line: &str| {
        let name = line.split(['{', ' ']).next()?;
        let value = line.rsplit(' ').next()?;
        COUNTERS.contains(&name).then(|| value.parse::<u64>().ok())?
    };
    metrics.lines().filter_map(value).fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_the_owner_has_written() {
        assert_eq!(position(1_000, 100, Some(25)), 250);
        assert_eq!(position(1_000, 100, Some(100)), 1_000);
        assert_eq!(position(1_000, 100, Some(140)), 1_000);
        // An owner that does not count, or a last line without its end.
        assert_eq!(position(1_000, 100, None), 1_000);
        assert_eq!(position(10, 0, Some(0)), 10);
    }

    #[test]
    fn all_effects_and_rejections_count() {
        let metrics = "# TYPE store_info_writes counter\n\
            store_info_writes_total{effect=\"created\"} 7\n\
            store_info_writes_total{effect=\"unchanged\"} 5\n\
            store_info_import_rejected_lines_total 2\nother_total 9\n# EOF\n";
        assert_eq!(sum(metrics), Some(14));
        assert_eq!(sum("other_total 9\n"), None);
    }
}
