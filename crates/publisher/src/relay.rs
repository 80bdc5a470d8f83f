//! Change log → NATS.
//!
//! The relay reads pending rows without holding locks, publishes them with many acknowledgements
//! in flight, and marks each with what the stream now holds, by stream sequence. It is woken
//! by a commit in this process, and otherwise polls for what other programs wrote.
//!
//! A broker may lose what it acknowledged (it syncs its disk every two minutes by default), and a
//! relay may die between publishing and marking. So when the server was restarted, and when the stream
//! looks younger, shorter or emptier than it should, or lacks what was published last, rows are made
//! pending again, *at the stream's current last sequence*: what was acknowledged before that no longer
//! counts for them.
//!
//! A relay that cannot mark what it published, since its database is full, publishes nothing more until it
//! can: it would publish the same rows over and over.
//!
//! A publish may also arrive when nobody waits for it any more, over a newer one. So at each check
//! the relay reads the messages beyond the sequence up to which it knows everything,
//! and marks them as if they had been acknowledged.

mod again;
mod altered;
mod compare;
mod look;
mod strangers;

pub use strangers::MAX_DEFERRED_STRANGERS;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use nudge_protocol::{EntityId, EntityName, Notification, cloud_events::EventSource, subject};
use nudge_runtime::{BoxError, clock, problem::chain, traces::TRACEPARENT};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use again::Again;
use altered::Altering;
use compare::Comparison;

pub use crate::allowance::{STRANGERS_AT_ONCE, STRANGERS_PER_SECOND};
use crate::{
    change_log::{
        ChangeLog,
        outbox::{Pending, Published},
    },
    metrics::Metrics,
    sink::{Message, Sink, StreamInfo},
    traces::Written,
};

/// Rows read and published at a time; also the limit of acknowledgements in flight.
pub const MAX_ROWS_PER_ROUND: usize = 2_000;
/// Longest pause between two polls of the change log if nothing wakes the relay.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// First pause after the last pending row; it doubles up to [`MAX_POLL_INTERVAL`].
pub const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause between attempts to mark rows that a writer had locked.
pub const HELD_PAUSE: Duration = Duration::from_secs(1);
/// Most rows that are remembered as published and locked by a writer. Further ones are published again in each round.
pub const MAX_HELD_ROWS: usize = 20_000;
/// Shortest time between two counts of more pending rows than a round takes.
const COUNT_PAUSE: Duration = Duration::from_secs(1);
/// How many times longer than a count the pause after it is: of 1,000,000 rows, one takes seconds.
const COUNT_SHARE: u32 = 50;
/// Longest time that a relay takes to stop.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failure to reach the broker or the database.
pub const ERROR_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a publish that the stream refused; it doubles from [`ERROR_PAUSE`] with each consecutive one.
pub const MAX_REFUSED_PAUSE: Duration = Duration::from_secs(8);

pub(crate) struct Relay {
    log: ChangeLog,
    sink: Arc<dyn Sink>,
    wake: Arc<Notify>,
    metrics: Metrics,
    /// If notifications are CloudEvents, too.
    events: Option<EventSource>,
    /// The traces of what this process wrote.
    written: Written,
    /// The stream as last seen; `None` before the first check on a connection.
    stream: Option<StreamInfo>,
    next_check: Instant,
    /// The sequence up to which everything in the stream is marked, or superseded by rows that
    /// are pending; `None` before the first check.
    known: Option<u64>,
    /// What this relay marked since it last found its marks in the log, and what was published last when it found
    /// nothing to do. If the log no longer has it, its database went back to an older state.
    newest_marked: Vec<Published>,
    /// What should be made pending again and could not, because a writer had it locked. It is retried
    /// at the next check of the stream.
    locked: Vec<EntityId>,
    /// The run of the server that keeps the stream, and whether that is a new one, not yet
    /// compared.
    server: Option<String>,
    restarted: bool,
    /// What the stream holds and could not be marked, because a writer has its row locked.
    held: Held,
    /// Messages in the stream about IDs that the log does not know and that have no tombstone yet.
    strangers: strangers::Strangers,
    /// How others have altered the stream.
    altering: Altering,
    /// The progress of comparing the stream with the log; `None` when that is done.
    comparison: Option<Comparison>,
    /// How many messages the stream must hold at least, as far as is known: one for each subject, forever.
    expected: u64,
    /// Whether messages were missing, so that everything is compared once more; and how soon.
    short: bool,
    refills: Again,
    /// How many consecutive rounds were not published completely.
    refused: u32,
    next_count: Instant,
}

/// Published rows that a writer keeps locked. They are not published again, however long that takes: only marking
/// them is retried.
#[derive(Debug, Default)]
struct Held {
    rows: Vec<Published>,
    next_try: Option<Instant>,
}

impl Held {
    /// Keeps each row once, with its newest message: a check also reads what was published before.
    fn remember(&mut self, behind: Vec<Published>) {
        let ids: HashSet<_> = behind.iter().map(|row| row.id.clone()).collect();
        self.rows.retain(|row| !ids.contains(&row.id));
        let room = MAX_HELD_ROWS.saturating_sub(self.rows.len());
        self.rows.extend(behind.into_iter().take(room));
    }
}

impl Relay {
    pub(crate) fn new(
        log: ChangeLog,
        sink: Arc<dyn Sink>,
        wake: Arc<Notify>,
        metrics: Metrics,
        events: Option<EventSource>,
        written: Written,
    ) -> Self {
        Self {
            log,
            sink,
            wake,
            metrics,
            events,
            written,
            stream: None,
            next_check: Instant::now(),
            known: None,
            newest_marked: Vec::new(),
            locked: Vec::new(),
            server: None,
            restarted: false,
            held: Held::default(),
            strangers: strangers::Strangers::new(),
            altering: Altering::default(),
            comparison: None,
            expected: 0,
            short: false,
            refills: Again::default(),
            refused: 0,
            next_count: Instant::now(),
        }
    }

    /// Runs until `stop`. Nothing ends it early: every failure is logged and retried.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut connections = self.sink.connections();
        let mut connection = 0;
        let mut pause = MIN_POLL_INTERVAL;
        loop {
            let now = *connections.borrow_and_update();
            // The first connection may be counted after the first check of the stream was answered.
            if now > connection.max(1) {
                self.stream = None;
            }
            connection = now;
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => return self.leave().await,
                // Requests on the previous connection are no longer answered.
                Ok(()) = connections.changed() => continue,
                round = self.round() => round,
            };
            self.metrics.connected.set(i64::from(round.is_ok()));
            self.metrics.broker_connected.set(i64::from(self.sink.is_connected()));
            pause = match round {
                Ok(0) => (pause * 2).min(MAX_POLL_INTERVAL),
                Ok(_) => {
                    pause = MIN_POLL_INTERVAL;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(entity = %self.log.entity(), error = %chain(&*error), "relay: failed; retrying");
                    self.metrics.errors.inc();
                    self.next_check = Instant::now();
                    self.metrics.note_pending(&self.log).await;
                    let pause = ERROR_PAUSE * 2_u32.saturating_pow(self.refused.saturating_sub(1));
                    // A wake-up must not turn an outage into a busy loop.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return self.leave().await,
                        Ok(()) = connections.changed() => {}
                        () = tokio::time::sleep(pause.min(MAX_REFUSED_PAUSE)) => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.leave().await,
                () = self.wake.notified() => pause = MIN_POLL_INTERVAL,
                _ = connections.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Stores the sequence up to which the stream is known, so that the next start has nothing to read before it
    /// publishes. Otherwise it would have to read what was published in the last seconds.
    async fn leave(&mut self) {
        let (Some(stream), Some(known)) = (self.stream.clone(), self.known) else { return };
        let work = async {
            if !self.log_went_back().await? {
                let known = self.strangers.known(known);
                self.log.set_stream(&stream, known).await?;
            }
            Ok::<_, BoxError>(())
        };
        // If it does not succeed soon, do without.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, work).await;
    }

    /// Checks the stream when that is due, publishes one round, and then compares the stream with one page of the
    /// log until that is done. Returns how much got done; 0 must be followed by a pause.
    async fn round(&mut self) -> Result<u64, BoxError> {
        if self.stream.is_none() || Instant::now() >= self.next_check {
            self.check_stream().await?;
        }
        self.mark_held().await?;
        let mut pending = self.pending().await?;
        // Nothing may be published over the only message that has versions that the log lost.
        if !pending.is_empty() && (self.came_back(&pending) || self.log_went_back().await?) {
            self.check_stream().await?;
            pending = self.pending().await?;
        }
        if self.renew_newborn(&pending).await? {
            pending = self.pending().await?;
        }
        self.metrics.note_oldest(pending.iter().map(|row| row.version).min());
        if pending.is_empty() {
            self.metrics.pending.set(self.held.rows.len() as i64);
            self.remember().await?;
            return Ok(u64::from(self.compare_on().await?));
        }
        if pending.len() == MAX_ROWS_PER_ROUND {
            self.count_many().await;
        } else {
            self.metrics.pending.set((pending.len() + self.held.rows.len()) as i64);
        }
        let (mut published, failed) = self.publish(&pending).await;
        self.refused = failed.as_ref().map_or(0, |_| self.refused.saturating_add(1));
        let mut marked = 0;
        if !published.is_empty() {
            let all;
            (marked, all) = self.mark(&published).await?;
            self.metrics.published.inc_by(published.len() as u64);
            self.metrics.pending.dec_by(published.len() as i64);
            let first: HashSet<_> =
                pending.iter().filter(|row| row.is_first).map(|row| &row.id).collect();
            self.expected += published.iter().filter(|one| first.contains(&one.id)).count() as u64;
            // If others publish, too, there are gaps: the messages in them will be read.
            if all && let Some(known) = &mut self.known {
                published.sort_unstable_by_key(|one| one.seq);
                published.iter().for_each(|one| *known += u64::from(one.seq == *known + 1));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(marked + u64::from(self.compare_on().await?)),
        }
    }

    /// The rows to publish. Rows with invalid IDs are removed from the log: nothing can ever be published about them, and
    /// the others must not wait behind them.
    async fn pending(&self) -> Result<Vec<Pending>, sqlx::Error> {
        let (pending, unreadable) = self.log.pending(MAX_ROWS_PER_ROUND, &self.held.rows).await?;
        if !unreadable.is_empty() {
            let taken = self.log.take_out(&unreadable).await?;
            self.metrics.unreadable.inc_by(taken);
            let (entity, id) = (self.log.entity(), unreadable[0].escape_ascii().to_string());
            tracing::error!(%entity, id, taken, "rows with invalid IDs were removed from the change log: subscribers are not notified of them");
        }
        Ok(pending)
    }

    /// Whether a change waited longer than a poll although nothing was wrong: it may have come back with an older state of the
    /// log, and others may have published newer ones since. Then the stream is checked first.
    fn came_back(&self, pending: &[Pending]) -> bool {
        let looked = self.next_check.checked_sub(look::STREAM_CHECK_INTERVAL);
        let long_ago = looked.is_none_or(|looked| looked.elapsed() > MAX_POLL_INTERVAL);
        let poll = MAX_POLL_INTERVAL.as_micros() as u64;
        let now = clock::now().unix_micros().unsigned_abs();
        long_ago && pending.iter().any(|row| row.version.get() + poll < now)
    }

    /// Remembers what was published last, by whichever relay: the log must have it as long as its database does
    /// not go back.
    async fn remember(&mut self) -> Result<(), sqlx::Error> {
        let known = self.newest_marked.last().map_or(0, |one| one.seq);
        match self.log.last_published(1).await?.pop() {
            Some(last) if last.seq >= known => self.newest_marked = vec![last],
            // Perhaps it did go back: that is found out before anything is published.
            _ => {}
        }
        Ok(())
    }

    /// Marks rows with what the stream holds. Returns how many rows were marked, and whether the log now knows
    /// everything: rows that a writer has locked are missing.
    async fn mark(&mut self, published: &[Published]) -> Result<(u64, bool), sqlx::Error> {
        let marked = self.log.mark(published, self.server.as_deref()).await?;
        if marked == published.len() as u64 {
            self.newest_marked.truncate(1);
            self.newest_marked.extend(published.last().cloned());
            return Ok((marked, true));
        }
        let behind = self.log.behind(published).await?;
        let all = behind.is_empty();
        self.held.remember(behind);
        Ok((marked, all))
    }

    /// Retries marking rows that a writer had locked.
    async fn mark_held(&mut self) -> Result<(), sqlx::Error> {
        let due = self.held.next_try.is_none_or(|next| Instant::now() >= next);
        if self.held.rows.is_empty() || !due {
            return Ok(());
        }
        self.log.mark(&self.held.rows, self.server.as_deref()).await?;
        self.held.rows = self.log.behind(&self.held.rows).await?;
        self.held.next_try = Some(Instant::now() + HELD_PAUSE);
        Ok(())
    }

    /// Counts what is pending while that is more than a round takes. It reads all of them, so not at each round. In
    /// between, what is published is subtracted.
    async fn count_many(&mut self) {
        let began = Instant::now();
        if began >= self.next_count {
            self.metrics.note_pending(&self.log).await;
            self.next_count = Instant::now() + COUNT_PAUSE.max(began.elapsed() * COUNT_SHARE);
        }
    }

    /// Publishes all rows at once and awaits their acknowledgements. Returns what was acknowledged,
    /// and the first failure if there was one.
    async fn publish(&self, pending: &[Pending]) -> (Vec<Published>, Option<BoxError>) {
        // Each awaits its acknowledgement as soon as it is sent: several relays share the
        // connection's limit on acknowledgements in flight, and must not all wait for a slot.
        let results = join_all(pending.iter().map(|row| self.publish_one(row))).await;
        let mut published = Vec::with_capacity(pending.len());
        let mut failed = None;
        for result in results {
            match result {
                Ok(one) => published.push(one),
                Err(error) => {
                    self.metrics.unacknowledged.inc();
                    failed = failed.or(Some(error));
                }
            }
        }
        (published, failed)
    }

    async fn publish_one(&self, row: &Pending) -> Result<Published, BoxError> {
        let entity = self.log.entity();
        let mut message = message(entity, row, self.events.as_ref());
        let publication = self.written.publishes(row);
        let context = publication.as_ref().and_then(|publication| publication.context());
        message.headers.extend(context.map(|context| (TRACEPARENT, context.to_string())));
        let published = self.sink.publish(entity, message).await;
        if let Some(publication) = publication {
            publication.ends(entity, &row.id, published.as_ref().ok().copied());
        }
        let seq = published?;
        Ok(Published { id: row.id.clone(), version: row.version, seq })
    }
}

/// What is published for a row: which entity, how it changed, and its version as a header.
fn message(entity: &EntityName, row: &Pending, events: Option<&EventSource>) -> Message {
    let body = Notification { id: row.id.clone(), change: row.change }.to_json();
    let subject = subject::subject(entity, &row.id);
    let headers = events.map(|source| source.headers(entity, &row.id, row.change, row.version));
    let headers = headers.into_iter().flatten().collect();
    Message { subject, version: row.version.to_string(), body, headers }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::Version;

    use super::*;

    /// A check of the stream rereads what a writer keeps locked, which may be another version by now.
    #[test]
    fn a_locked_row_is_remembered_once_as_it_stands_in_the_stream() {
        let row = |id: &str, version, seq| {
            let (id, version) = (EntityId::new(id).unwrap(), Version::new(version).unwrap());
            Published { id, version, seq }
        };
        let mut held = Held::default();
        held.remember(vec![row("a", 5, 10), row("b", 6, 11)]);
        held.remember(vec![row("a", 4, 12)]);
        let rows: Vec<_> =
            held.rows.iter().map(|row| (row.id.as_str(), row.version.get(), row.seq)).collect();
        assert_eq!(rows, [("b", 6, 11), ("a", 4, 12)]);
    }
}
