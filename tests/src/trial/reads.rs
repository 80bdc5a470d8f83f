//! The stream of reads of a trial, all of one thing that is never deleted.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::PAUSE;

/// Longest time that a read may take. A longer one hangs, and counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Number of failed reads that are reported in full.
const MAX_TOLD: usize = 5;

/// The results of the reads.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Number of reads that failed or hung.
    pub failed: usize,
    /// The errors of the first of those.
    pub failures: Vec<String>,
    /// Answers that cannot be true.
    pub wrong: Vec<String>,
    /// Longest time between two good answers.
    pub longest_gap: Duration,
}

/// Reads from the read model continuously.
pub(super) async fn read(url: String, stop: CancellationToken) -> Reads {
    let http = Client::builder().timeout(TIMEOUT).build().expect("a client");
    let mut reads = Reads::default();
    let mut last = Instant::now();
    while !stop.is_cancelled() {
        let answer = ask(&http, &url).await;
        reads.longest_gap = reads.longest_gap.max(last.elapsed());
        match answer {
            Ok(applied) if applied["deleted"] == false => last = Instant::now(),
            Ok(applied) => reads.wrong.push(applied.to_string()),
            Err(failure) => {
                reads.failed += 1;
                if reads.failures.len() < MAX_TOLD {
                    reads.failures.push(failure);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    reads
}

async fn ask(http: &Client, url: &str) -> Result<Value, String> {
    let answer = http.get(url).send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body = answer.text().await.map_err(|error| format!("{error:?}"))?;
    match status.as_u16() {
        200 => serde_json::from_str(&body).map_err(|error| format!("{body}: {error}")),
        _ => Err(format!("{status}: {body}")),
    }
}
