//! Reads again what another revision of the read model has applied: a page of keys at a time, and the next one only
//! when it is done, so that the owner and what is fresh feel little of it.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{EntityId, Version};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    read_model::revision::Revisions, settings::Settings, telemetry::progress::Progress,
    work::worker::Incoming,
};

/// Keys that are read again at a time.
const PAGE: usize = 256;
/// How often it is looked whether a page is done.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a page of which nothing gets done: an older release may have written what was read again, or the
/// owner is down. What is left of it is met again at the next look through the read model.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is said that this revision is in use.
const CLAIM_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until `stop`.
pub(crate) async fn run(
    revisions: Revisions,
    progress: Arc<Progress>,
    queue: mpsc::Sender<Incoming>,
    settings: Settings,
    stop: CancellationToken,
) {
    let every = settings.revision_check_interval;
    let mut starts = true;
    let work = async {
        loop {
            match once(&revisions, &progress, &queue, starts).await {
                Ok(()) => starts = false,
                Err(error) => {
                    let entity = &revisions.entity;
                    tracing::warn!(%entity, %error, "cannot look for what is to be read again: will try again");
                }
            }
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Looks through the read model once, if this revision counts.
async fn once(
    revisions: &Revisions,
    progress: &Progress,
    queue: &mpsc::Sender<Incoming>,
    starts: bool,
) -> Result<(), sqlx::Error> {
    let (mut after, mut total) = (String::new(), 0);
    let mut claimed = None;
    loop {
        // A long refill must not look as if nobody used this revision any more.
        if claimed.is_none_or(|at: Instant| at.elapsed() >= CLAIM_INTERVAL) {
            if !revisions.claim(starts && claimed.is_none()).await? {
                return Ok(());
            }
            claimed = Some(Instant::now());
        }
        let page = revisions.outdated(&after, PAGE).await?;
        let Some(last) = page.last().cloned() else { break };
        if total == 0 {
            tracing::info!(entity = %revisions.entity, "the read model has a new revision: reading every entity again");
        }
        total += page.len();
        progress.refilled.inc_by(page.len() as u64);
        for id in page {
            let incoming = Incoming::unasked(id, Version::NONE, 0);
            if queue.send(incoming).await.is_err() {
                return Ok(());
            }
        }
        done(revisions, &after, &last).await?;
        after = last.as_str().to_owned();
    }
    if total > 0 {
        tracing::info!(entity = %revisions.entity, total, "every entity was read again");
    }
    Ok(())
}

/// Waits until these are done, or no more of them gets done.
async fn done(revisions: &Revisions, after: &str, last: &EntityId) -> Result<(), sqlx::Error> {
    let (mut fewest, mut since) = (u64::MAX, Instant::now());
    while since.elapsed() < PATIENCE {
        let left = revisions.left(after, last).await?;
        if left == 0 {
            break;
        }
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
