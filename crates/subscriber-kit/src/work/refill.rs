//! Refills rows that another revision of the read model has applied: one page of keys at a time, each only when the
//! last one is done, so that the owner and fresh changes hardly notice.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{EntityId, Version};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    read_model::revision::Revisions,
    settings::Settings,
    telemetry::progress::Progress,
    work::{waiting::Waiting, worker::Incoming},
};

/// Keys per page.
const PAGE: usize = 256;
/// How often to check whether a page is done.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a page without progress: an older release may have overwritten rows, or the owner may be down. The
/// next pass over the read model finds what is left.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to say that this revision is in use.
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
                    tracing::warn!(%entity, %error, "cannot find the entities to read again: retrying");
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

/// Passes over the read model once, if this revision counts.
async fn once(
    revisions: &Revisions,
    progress: &Progress,
    queue: &mpsc::Sender<Incoming>,
    starts: bool,
) -> Result<(), sqlx::Error> {
    let (mut after, mut total) = (String::new(), 0);
    let mut claimed = None;
    loop {
        // During a long refill, the revision must remain claimed.
        if claimed.is_none_or(|at: Instant| at.elapsed() >= CLAIM_INTERVAL) {
            if !revisions.claim(starts && claimed.is_none()).await? {
                return Ok(());
            }
            claimed = Some(Instant::now());
        }
        // A new release may well be able to apply what an older one could not.
        let page = revisions.outdated(&after, PAGE, starts).await?;
        let Some(last) = page.last().cloned() else { break };
        if total == 0 {
            tracing::info!(entity = %revisions.entity, "the read model has a new revision: reading all entities again");
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
        tracing::info!(entity = %revisions.entity, total, "all entities were read again");
    }
    Ok(())
}

/// Waits until this page is done, or makes no more progress.
async fn done(revisions: &Revisions, after: &str, last: &EntityId) -> Result<(), sqlx::Error> {
    let mut waiting = Waiting::new(PATIENCE);
    // What is left is on the queue, however busy the owner is.
    while waiting.goes_on(revisions.left(after, last).await?, Some(0)) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
