//! Compares the stream with the log, a page of the log at a time, beside what is published: a fresh change
//! waits for one page at most.
//!
//! A broker may lose the last minutes of what it acknowledged. So after each start of its server, everything that
//! changed lately is looked for. If anything is missing, all of that is published again, not just what is missing:
//! the broker may have gone back, and give places in the stream out again that a subscriber's consumer has
//! passed. What is published first is then passed over, and must be what everybody knows. A broker that cannot
//! tell what stands on a subject, or of whose replicas any may answer, gets it all again, too.

use std::{collections::HashMap, time::Duration};

use nudge_protocol::{EntityId, Timestamp, subject};
use nudge_runtime::{BoxError, clock};
use tokio::time::Instant;

use super::Relay;
use crate::{
    change_log::outbox::Published,
    sink::{MAX_SUBJECTS, Standing},
};

/// How far back changes are looked for after the server was started again: well beyond the two minutes that a
/// broker may hold acknowledged messages in memory only.
const REPUBLISH_WINDOW: Duration = Duration::from_secs(600);

/// What of the log is looked for in the stream. All of it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: the server has run all the time.
    Counts,
    /// What changed in the last minutes, or later than that moment.
    Since(Timestamp),
    /// All that was ever published.
    Everything,
}

impl Wanted {
    /// What changed within [`REPUBLISH_WINDOW`].
    pub(super) fn the_last_minutes() -> Self {
        let window = i64::try_from(REPUBLISH_WINDOW.as_micros()).unwrap_or(i64::MAX);
        Self::Since(Timestamp::from_unix_micros(clock::now().unix_micros() - window))
    }

    /// The first moment of which changes are looked for.
    fn since(self) -> Timestamp {
        match self {
            Self::Counts => Timestamp::from_unix_micros(i64::MAX),
            Self::Since(since) => since,
            Self::Everything => Timestamp::from_unix_micros(i64::MIN),
        }
    }
}

/// How far a comparison has got.
#[derive(Debug)]
pub(super) struct Comparison {
    wanted: Wanted,
    /// Nothing is looked up, all that is wanted is published again: the broker cannot tell, or has gone back.
    blind: bool,
    /// How many messages the stream held when it began, and which run of the server kept it.
    messages: u64,
    server: Option<String>,
    /// The id up to which the log is read.
    after: Vec<u8>,
    /// Rows so far.
    rows: u64,
    /// Rows so far that say that something was published.
    published: u64,
    /// Rows so far that were made pending again, since the stream lacks them.
    missing: u64,
}

impl Comparison {
    pub(super) fn new(wanted: Wanted, blind: bool, now: &Standing) -> Self {
        let (messages, server) = (now.messages, now.server.clone());
        let (after, rows, published, missing) = (Vec::new(), 0, 0, 0);
        Self { wanted, blind, messages, server, after, rows, published, missing }
    }
}

impl Relay {
    /// Begins anew.
    pub(super) fn compare(&mut self, wanted: Wanted, blind: bool, now: &Standing) {
        self.metrics.comparing.set(1);
        self.comparison = Some(Comparison::new(wanted, blind, now));
    }

    /// Looks for all that was ever published: at once, or when a stream that goes on to drop what is published was
    /// filled up before, after a pause that grows.
    pub(super) fn compare_everything(&mut self, now: &Standing) {
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

    /// Compares one page further. Whatever goes wrong, the page is compared again. Returns whether there was
    /// one.
    pub(super) async fn compare_on(&mut self) -> Result<bool, BoxError> {
        let Some(comparison) = &self.comparison else { return Ok(false) };
        let since = comparison.wanted.since();
        let page = self.log.published_page(since, &comparison.after, MAX_SUBJECTS).await?;
        let last_seq = self.standing.as_ref().map_or(0, |standing| standing.last_seq);
        // Where runs of the server are not told apart, an acknowledgement from before must not count either.
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
            tracing::warn!(%entity, missing, "the stream lost notifications: publishing again what changed lately");
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

    /// Looks for these in the stream, and records what stands there. Returns those that do not, and a sequence that the
    /// stream has reached; `None` if the broker cannot tell.
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
                // Published since, by whomever.
                Some(there) if there.seq > one.seq => newer.push(there.clone()),
                _ => missing.push(one.id.clone()),
            }
        }
        if !newer.is_empty() {
            self.record(&newer).await?;
        }
        Ok(Some((missing, looked.last_seq)))
    }

    async fn end_comparison(&mut self) -> Result<(), BoxError> {
        let now = self.sink.ensure(self.log.entity()).await?;
        let Some(ended) = &self.comparison else { return Ok(()) };
        // Each message that was there at the beginning has a row that was there, too.
        self.note_strangers(ended.messages.saturating_sub(ended.rows), ended.rows);
        if ended.missing > 0 {
            let (entity, missing) = (self.log.entity(), ended.missing);
            tracing::warn!(%entity, missing, "the stream lost notifications: publishing them again");
            self.metrics.republished.inc();
        }
        // Fewer messages than entities that were published: some are missing that changed long ago.
        if ended.published > now.messages && ended.wanted != Wanted::Everything {
            self.compare_everything(&now);
            return Ok(());
        }
        self.log.set_checked(ended.server.as_deref()).await?;
        // Nobody can tell what became of what is published blindly: that is not repeated.
        let filled = ended.missing > 0 && !ended.blind;
        self.short = filled && ended.wanted == Wanted::Everything;
        self.comparison = None;
        self.metrics.comparing.set(0);
        Ok(())
    }
}
