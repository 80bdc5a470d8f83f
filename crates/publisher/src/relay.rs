//! Change log → NATS.
//!
//! The relay reads pending rows without holding locks, publishes them with many acknowledgements
//! in flight, and records for each what now stands in the stream, by stream sequence. It is woken
//! by a commit in this process, and else polls for what other programs wrote.
//!
//! A broker may lose what it acknowledged (it syncs its disk every two minutes by default), and a
//! relay may die between publishing and recording. So on every connection, and when the stream
//! looks younger, shorter or emptier than it should, rows are made pending again, *at the stream's
//! current last sequence*: what was acknowledged before that no longer counts for them.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use futures_util::future::join_all;
use nudge_protocol::{Notification, Timestamp, notification::VERSION_HEADER, subject};
use nudge_runtime::{BoxError, Broker, problem::chain};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    change_log::{ChangeLog, Pending, Published},
    metrics::Metrics,
    stream::{self, Standing},
};

/// Rows read and published at a time; also the most acknowledgements in flight.
pub const MAX_ROWS_PER_ROUND: usize = 2_000;
/// Longest pause between two looks at the change log when nothing wakes the relay.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// First pause after the last pending row; it doubles up to [`MAX_POLL_INTERVAL`].
pub const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause after a failure to reach the broker or the database.
pub const ERROR_PAUSE: Duration = Duration::from_millis(250);
/// How often the stream itself is looked at, to find that it was deleted or emptied.
pub const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How far back rows are published again on each connection: well beyond the two minutes that a
/// broker may hold acknowledged messages in memory only.
pub const REPUBLISH_WINDOW: Duration = Duration::from_secs(600);

pub(crate) struct Relay {
    log: ChangeLog,
    broker: Broker,
    wake: Arc<Notify>,
    metrics: Metrics,
    /// The stream as last seen; `None` before the first look on a connection.
    standing: Option<Standing>,
    next_check: Instant,
}

impl Relay {
    pub(crate) fn new(log: ChangeLog, broker: Broker, wake: Arc<Notify>, metrics: Metrics) -> Self {
        Self {
            log,
            broker,
            wake,
            metrics,
            standing: None,
            next_check: Instant::now(),
        }
    }

    /// Runs until `stop`. Nothing ends it early: every failure is logged and tried again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut connections = self.broker.connections();
        let mut pause = MIN_POLL_INTERVAL;
        loop {
            if connections.has_changed().unwrap_or(false) {
                connections.mark_unchanged();
                self.standing = None;
            }
            let round = tokio::select! {
                round = self.round() => round,
                () = stop.cancelled() => return,
            };
            self.metrics.connected.set(i64::from(round.is_ok()));
            pause = match round {
                Ok(0) => (pause * 2).min(MAX_POLL_INTERVAL),
                Ok(_) => {
                    pause = MIN_POLL_INTERVAL;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(entity = %self.log.entity(), error = %chain(&*error), "relay: will try again");
                    self.metrics.errors.inc();
                    self.next_check = Instant::now();
                    self.note_pending().await;
                    // A wake-up must not turn an outage into a busy loop.
                    tokio::select! {
                        () = tokio::time::sleep(ERROR_PAUSE) => {}
                        () = stop.cancelled() => return,
                    }
                    continue;
                }
            };
            tokio::select! {
                () = self.wake.notified() => pause = MIN_POLL_INTERVAL,
                _ = connections.changed() => self.standing = None,
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at the stream when that is due, then publishes one round. Returns the rows published.
    async fn round(&mut self) -> Result<usize, BoxError> {
        if self.standing.is_none() || Instant::now() >= self.next_check {
            self.check_stream().await?;
        }
        let pending = self.log.pending(MAX_ROWS_PER_ROUND).await?;
        if pending.is_empty() {
            self.metrics.pending.set(0);
            return Ok(0);
        }
        if pending.len() == MAX_ROWS_PER_ROUND {
            self.note_pending().await;
        } else {
            self.metrics.pending.set(pending.len() as i64);
        }
        let (published, failed) = self.publish(&pending).await;
        if !published.is_empty() {
            self.log.mark(&published).await?;
            self.metrics.published.inc_by(published.len() as u64);
            let last = published.iter().map(|p| p.seq).max();
            if let (Some(standing), Some(last)) = (&mut self.standing, last) {
                standing.last_seq = standing.last_seq.max(last);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(published.len()),
        }
    }

    async fn note_pending(&self) {
        if let Ok(count) = self.log.count_pending().await {
            self.metrics.pending.set(count as i64);
        }
    }

    /// Publishes all rows, then awaits all acknowledgements. Returns what is acknowledged, and the
    /// first failure if there was one.
    async fn publish(&self, pending: &[Pending]) -> (Vec<Published>, Option<BoxError>) {
        let stream = subject::stream_name(self.log.entity());
        let mut in_flight = Vec::with_capacity(pending.len());
        let mut failed: Option<BoxError> = None;
        for row in pending {
            let subject = subject::subject(self.log.entity(), &row.id);
            match self
                .broker
                .jetstream
                .send_publish(subject, message(row))
                .await
            {
                Ok(ack) => in_flight.push(async move { (row, ack.await) }),
                Err(error) => {
                    failed = Some(error.into());
                    break;
                }
            }
        }
        let mut published = Vec::with_capacity(in_flight.len());
        for (row, ack) in join_all(in_flight).await {
            match ack {
                // An acknowledgement counts only for our stream, and `duplicate` proves nothing
                // about what stands there.
                Ok(ack) if ack.stream == stream && !ack.duplicate => published.push(Published {
                    id: row.id.clone(),
                    version: row.version,
                    seq: ack.sequence,
                }),
                Ok(ack) => failed = Some(format!("unexpected acknowledgement {ack:?}").into()),
                Err(error) => failed = Some(error.into()),
            }
        }
        (published, failed)
    }

    /// Finds out whether the broker may have lost something, and makes those rows pending again.
    async fn check_stream(&mut self) -> Result<(), BoxError> {
        let now = stream::ensure(&self.broker.jetstream, self.log.entity()).await?;
        let log = &self.log;
        let recorded = log.stream_created().await?;
        let another = recorded.as_deref() != Some(&now.created);
        let repaired = match &self.standing {
            // A new incarnation holds nothing of what was published to the last one.
            _ if another => {
                log.unpublish_since(Timestamp::from_unix_micros(i64::MIN), now.last_seq)
                    .await?;
                log.set_stream_created(&now.created).await?;
                true
            }
            None => {
                let rolled_back = log.highest_published_seq().await? > now.last_seq;
                if rolled_back {
                    log.unpublish_beyond(now.last_seq).await?;
                }
                // Fewer messages than entities: it was purged, and which are missing is unknown.
                let everything = log.count_published().await? > now.messages;
                let window = i64::try_from(REPUBLISH_WINDOW.as_micros()).unwrap_or(i64::MAX);
                let since = match everything {
                    true => i64::MIN,
                    false => Timestamp::now().unix_micros() - window,
                };
                log.unpublish_since(Timestamp::from_unix_micros(since), now.last_seq)
                    .await?;
                everything || rolled_back
            }
            Some(before) if now.last_seq < before.last_seq || now.messages < before.messages => {
                log.unpublish_beyond(now.last_seq).await?;
                log.unpublish_since(Timestamp::from_unix_micros(i64::MIN), now.last_seq)
                    .await?;
                true
            }
            Some(_) => false,
        };
        if repaired {
            tracing::warn!(entity = %log.entity(), ?now, "the stream lost notifications: publishing them again");
            self.metrics.republished.inc();
        }
        self.standing = Some(now);
        self.next_check = Instant::now() + STREAM_CHECK_INTERVAL;
        Ok(())
    }
}

fn message(row: &Pending) -> PublishMessage {
    let body = Notification {
        id: row.id.clone(),
        change: row.change,
    }
    .to_json();
    let mut headers = HeaderMap::new();
    headers.insert(VERSION_HEADER, row.version.to_string().as_str());
    PublishMessage::build()
        .payload(body.into())
        .headers(headers)
}
