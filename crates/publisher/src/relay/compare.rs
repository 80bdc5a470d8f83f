//! Compares the stream with the log, one page of the log after each round of publishing: a fresh change
//! waits for one page at most.
//!
//! A broker may lose the last minutes of what it acknowledged. So after each restart of its server, everything that
//! changed recently is looked for. If anything is missing, all of that is published again, not just what is missing:
//! the broker may have gone back, and may reuse sequences that a subscriber's consumer has
//! passed. What is published first is then skipped, and must be something that everybody knows. The same happens
//! if the broker cannot look subjects up, or if any of several replicas may answer.

use std::{collections::HashMap, time::Duration};

use nudge_protocol::{EntityId, Timestamp, subject};
use nudge_runtime::{BoxError, clock};
use tokio::time::Instant;

use super::Relay;
use crate::{
    change_log::outbox::Published,
    sink::{MAX_SUBJECTS, StreamInfo},
};

/// How far back changes are looked for after a restart of the server: well beyond the two minutes that a
/// broker may hold acknowledged messages in memory only.
const REPUBLISH_WINDOW: Duration = Duration::from_secs(600);

/// Which part of the log is looked for in the stream. All of it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: the server ran all the time.
    Counts,
    /// What changed in the last minutes before that moment, or later.
    Since(Timestamp),
    /// Everything that was ever published.
    Everything,
}

impl Wanted {
    /// What changed within [`REPUBLISH_WINDOW`].
    pub(super) fn the_last_minutes() -> Self {
        let window = i64::try_from(REPUBLISH_WINDOW.as_micros()).unwrap_or(i64::MAX);
        Self::Since(Timestamp::from_unix_micros(clock::now().unix_micros() - window))
    }

    /// Changes from this moment on are looked for.
    fn since(self) -> Timestamp {
        match self {
            Self::Counts => Timestamp::from_unix_micros(i64::MAX),
            Self::Since(since) => since,
            Self::Everything => Timestamp::from_unix_micros(i64::MIN),
        }
    }
}

/// The progress of a comparison.
#[derive(Debug)]
pub(super) struct Comparison {
    wanted: Wanted,
    /// Nothing is looked up, and everything wanted is published again: the broker cannot answer, or has gone back.
    blind: bool,
    /// For how many subjects the stream held a message when it began, and which run of the server kept it.
    messages: u64,
    server: Option<String>,
    /// The ID up to which the log is read.
    after: Vec<u8>,
    /// Rows so far.
    rows: u64,
    /// Rows so far that were published.
    published: u64,
    /// Rows so far that were made pending again because the stream lacks them.
    missing: u64,
}

impl Comparison {
    pub(super) fn new(wanted: Wanted, blind: bool, now: &StreamInfo) -> Self {
        let (messages, server) = (now.subjects, now.server.clone());
        let (after, rows, published, missing) = (Vec::new(), 0, 0, 0);
        Self { wanted, blind, messages, server, after, rows, published, missing }
    }
}

impl Relay {
    /// Starts over.
    pub(super) fn compare(&mut self, wanted: Wanted, blind: bool, now: &StreamInfo) {
        self.metrics.comparing.set(1);
        self.comparison = Some(Comparison::new(wanted, blind, now));
    }

    /// Looks for everything that was ever published: at once or, if a stream that keeps dropping what is published was
    /// refilled before, after a growing pause.
    pub(super) fn compare_everything(&mut self, now: &StreamInfo) {
        let due = self.refills.is_due(Instant::now());
        self.short = !due;
        if due {
            self.refills.done(Instant::now());
            self.compare(Wanted::Everything, false, now);
        } else {
            self.comparison = None;
            self.metrics.comparing.set(0);
        }
    }

    /// Compares the next page. If anything goes wrong, the page is compared again. Returns whether there was
    /// one.
    pub(super) async fn compare_on(&mut self) -> Result<bool, BoxError> {
        let Some(comparison) = &self.comparison else { return Ok(false) };
        let since = comparison.wanted.since();
        let page = self.log.published_page(since, &comparison.after, MAX_SUBJECTS).await?;
        let last_seq = self.stream.as_ref().map_or(0, |stream| stream.last_seq);
        // If runs of the server cannot be distinguished, an earlier acknowledgement must not count either.
        if self.server.is_none() && !page.pending.is_empty() {
            self.locked.extend(self.log.unpublish(&page.pending, last_seq).await?);
        }
        let (blind, everything) = (comparison.blind, comparison.wanted == Wanted::Everything);
        let found = match blind {
            true => None,
            false => self.find(&page.looked_for).await?,
        };
        let blind = found.is_none();
        let of = |one: &Published| one.id.clone();
        let (missing, last_seq) =
            found.unwrap_or_else(|| (page.looked_for.iter().map(of).collect(), last_seq));
        let begin_anew = !blind && !everything && !missing.is_empty();
        if !missing.is_empty() && !begin_anew {
            self.locked.extend(self.log.unpublish(&missing, last_seq).await?);
        }
        let Some(comparison) = &mut self.comparison else { return Ok(false) };
        comparison.blind = blind;
        if begin_anew {
            let (entity, missing) = (self.log.entity(), missing.len());
            tracing::warn!(%entity, missing, "the stream lost notifications: publishing recent changes again");
            self.metrics.republished.inc();
            (comparison.blind, comparison.after) = (true, Vec::new());
            (comparison.rows, comparison.published) = (0, 0);
            return Ok(true);
        }
        comparison.missing += missing.len() as u64;
        comparison.rows += page.rows;
        comparison.published += page.published;
        match page.next {
            Some(next) => comparison.after = next,
            None => self.end_comparison().await?,
        }
        Ok(true)
    }

    /// Looks for these in the stream, and marks those found. Returns the missing ones, and a sequence that the
    /// stream has reached; `None` if the broker cannot answer.
    async fn find(
        &mut self,
        published: &[Published],
    ) -> Result<Option<(Vec<EntityId>, u64)>, BoxError> {
        if published.is_empty() {
            return Ok(Some((Vec::new(), 0)));
        }
        let entity = self.log.entity();
        let subjects = published.iter().map(|one| subject::subject(entity, &one.id)).collect();
        let Some(looked) = self.sink.look_up(entity, subjects).await? else { return Ok(None) };
        let stored = looked.stored.iter().filter_map(|one| Published::by(entity, one));
        let stand: HashMap<EntityId, Published> = stored.map(|one| (one.id.clone(), one)).collect();
        let (mut missing, mut newer) = (Vec::new(), Vec::new());
        for one in published {
            match stand.get(&one.id) {
                Some(there) if there.seq == one.seq && there.version == one.version => {}
                // Published since, by anyone.
                Some(there) if there.seq > one.seq => newer.push(there.clone()),
                _ => missing.push(one.id.clone()),
            }
        }
        if !newer.is_empty() {
            self.mark(&newer).await?;
        }
        Ok(Some((missing, looked.last_seq)))
    }

    async fn end_comparison(&mut self) -> Result<(), BoxError> {
        let now = self.sink.ensure(self.log.entity()).await?;
        let Some(ended) = &self.comparison else { return Ok(()) };
        // Each message that existed at the beginning has a row that existed, too.
        self.note_strangers(ended.messages.saturating_sub(ended.rows), ended.rows);
        if ended.missing > 0 {
            let (entity, missing) = (self.log.entity(), ended.missing);
            tracing::warn!(%entity, missing, "the stream lost notifications: publishing them again");
            self.metrics.republished.inc();
        }
        // Fewer messages than published entities: some that changed long ago are missing.
        if ended.published > now.subjects && ended.wanted != Wanted::Everything {
            self.compare_everything(&now);
            return Ok(());
        }
        self.log.set_checked(ended.server.as_deref()).await?;
        // What is published without a lookup cannot be verified, so it is not repeated.
        let filled = ended.missing > 0 && !ended.blind;
        self.short = filled && ended.wanted == Wanted::Everything;
        self.comparison = None;
        self.metrics.comparing.set(0);
        Ok(())
    }
}
