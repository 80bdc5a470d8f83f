//! Brings rows of the dead-letter table back to the work queue when they are due.

use std::{sync::Arc, time::Duration};

use nudge_runtime::alerts::What;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    read_model::dead_letter::DeadLetters, settings::Settings, telemetry::progress::Progress,
    work::worker::Incoming,
};

/// How often to look for due rows.
const INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of rows brought back at a time.
const MAX_ROWS: usize = 256;

/// Runs until `stop`. Begins with one more attempt for every dead letter, since a new release may have fixed the cause.
pub(crate) async fn run(
    dead_letters: DeadLetters,
    progress: Arc<Progress>,
    queue: mpsc::Sender<Incoming>,
    settings: Settings,
    stop: CancellationToken,
) {
    let mut first = true;
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        match round(&dead_letters, &progress, &queue, &settings, first).await {
            Ok(()) => first = false,
            Err(error) => {
                tracing::warn!(%error, "cannot read the dead-letter table: retrying")
            }
        }
    }
}

async fn round(
    dead_letters: &DeadLetters,
    progress: &Progress,
    queue: &mpsc::Sender<Incoming>,
    settings: &Settings,
    first: bool,
) -> Result<(), sqlx::Error> {
    if first {
        dead_letters.retry_all().await?;
    }
    let counts = dead_letters.counts().await?;
    progress.parked.set(counts.parked as i64);
    if progress.dead_letters.set(counts.dead_letters as i64) > 0 && counts.dead_letters == 0 {
        progress.alarm.clear_all(What::DeadLetter);
    }
    let max_unknown = settings.max_unknown_keys as u64;
    // Usually nothing is due; then the write lock is not needed.
    if counts.unknown <= max_unknown && !dead_letters.is_due().await? {
        return Ok(());
    }
    if counts.unknown > 0 {
        let given_up =
            dead_letters.give_up_unknown(settings.max_unknown_attempts, max_unknown).await?;
        progress.given_up.inc_by(given_up);
    }
    for due in dead_letters.due(MAX_ROWS).await? {
        let incoming = Incoming::unasked(due.id, due.floor, due.attempts);
        if queue.send(incoming).await.is_err() {
            break;
        }
    }
    Ok(())
}
