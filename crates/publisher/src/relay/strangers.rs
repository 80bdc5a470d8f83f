//! IDs that the stream holds and the owner does not know (*strangers*): made up by somebody, or lost in a restore.
//!
//! Each gets a tombstone, above the version in the stream, so that subscribers have something to return
//! to. Those not allowed one yet are kept here, so that nothing else waits for them.

use std::{collections::HashMap, time::Duration};

use nudge_protocol::EntityId;
use nudge_runtime::BoxError;
use tokio::time::Instant;

use super::Relay;
use crate::{
    allowance::Allowance,
    change_log::outbox::{Pending, Published},
};

/// Most IDs that wait for a tombstone. Beyond that, the stream is read no further until some have
/// theirs; the owner's changes are published all the same.
pub const MAX_DEFERRED_STRANGERS: usize = 20_000;
/// Least time between two complete readings of the stream because the log lacked something.
pub(super) const READING_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between counts of their tombstones while there are any.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// The IDs that have no tombstone yet, and how many may be made now.
#[derive(Debug)]
pub(super) struct Strangers {
    deferred: HashMap<EntityId, Published>,
    allowance: Allowance,
    /// When their tombstones are counted next; `None` if there are none.
    next_count: Option<Instant>,
    /// Whether the stream must be read from its beginning, and when that is allowed.
    read_again: bool,
    next_reading: Instant,
}

impl Strangers {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            deferred: HashMap::new(),
            allowance: Allowance::default(),
            next_count: Some(now),
            read_again: false,
            next_reading: now,
        }
    }

    /// How many tombstones may be made now.
    pub(super) fn allowed(&mut self) -> usize {
        self.allowance.allowed()
    }

    /// Notes how many were made.
    pub(super) fn made(&mut self, strangers: u64) {
        self.allowance.made(strangers);
        if strangers > 0 {
            self.next_count = Some(Instant::now());
        }
    }

    /// Keeps those that are not allowed one yet. Returns whether there was room for all.
    pub(super) fn defer(&mut self, deferred: Vec<Published>) -> bool {
        let ids = deferred.into_iter().map(|one| (one.id.clone(), one));
        let mut all = true;
        for (id, one) in ids {
            match self.deferred.len() < MAX_DEFERRED_STRANGERS || self.deferred.contains_key(&id) {
                true => drop(self.deferred.insert(id, one)),
                false => all = false,
            }
        }
        all
    }

    /// Notes that the stream is another one, or must be read from its beginning.
    pub(super) fn forget(&mut self) {
        self.deferred.clear();
    }

    /// Notes that the log lacks something that the stream holds: all of it must be read.
    pub(super) fn read_again(&mut self) {
        self.read_again = true;
    }

    /// Whether the stream must be read from its beginning now. It may be long, and anyone who can publish could make
    /// the relay read it at each check: after the first time there is a pause.
    pub(super) fn reads_again(&mut self) -> bool {
        let now = Instant::now();
        let reads = self.read_again && now >= self.next_reading;
        if reads {
            self.next_reading = now + READING_INTERVAL;
            self.read_again = false;
        }
        reads
    }

    /// The sequence up to which the next relay need not read the stream again.
    pub(super) fn known(&self, known: u64) -> u64 {
        if self.read_again {
            return 0;
        }
        let before = self.deferred.values().map(|one| one.seq.saturating_sub(1)).min();
        before.map_or(known, |before| before.min(known))
    }

    /// Takes those that waited longest, as many as are allowed.
    fn due(&mut self) -> Vec<Published> {
        let allowed = self.allowed();
        let mut all: Vec<_> = self.deferred.values().cloned().collect();
        all.sort_unstable_by_key(|one| one.seq);
        all.truncate(allowed);
        self.take(all.into_iter().map(|one| one.id))
    }

    fn take(&mut self, ids: impl Iterator<Item = EntityId>) -> Vec<Published> {
        ids.filter_map(|id| self.deferred.remove(&id)).collect()
    }
}

impl Relay {
    /// Gives tombstones to those that had to wait.
    pub(super) async fn bury_deferred(&mut self) -> Result<(), BoxError> {
        if self.strangers.deferred.is_empty() {
            return Ok(());
        }
        let due = self.strangers.due();
        self.renew_or_keep(due).await
    }

    /// Handles waiting IDs that were created meanwhile: nothing is published about them before they have a version above
    /// the one in the stream. Returns whether there were any.
    pub(super) async fn renew_newborn(&mut self, pending: &[Pending]) -> Result<bool, BoxError> {
        if self.strangers.deferred.is_empty() {
            return Ok(false);
        }
        let newborn = self.strangers.take(pending.iter().map(|row| row.id.clone()));
        let any = !newborn.is_empty();
        self.renew_or_keep(newborn).await?;
        Ok(any)
    }

    /// Only this relay knows them, so they must survive a failure.
    async fn renew_or_keep(&mut self, shown: Vec<Published>) -> Result<(), BoxError> {
        let renewed = self.renew(&shown).await;
        if renewed.is_err() {
            self.strangers.defer(shown);
        }
        renewed.map(drop)
    }

    /// Notes a lower bound of how many there are: the stream holds one message per entity, so it never has more of them
    /// than the log has rows. If it does, the owner's database was lost, or somebody else publishes. Only comparing
    /// the copies with the owner can repair that: subscribers keep showing what the owner does not know.
    pub(super) fn note_strangers(&self, strangers: u64, known: u64) {
        let before = self.metrics.strangers.set(i64::try_from(strangers).unwrap_or(i64::MAX));
        if strangers > 0 && before == 0 {
            let entity = self.log.entity();
            tracing::warn!(
                %entity,
                strangers,
                known,
                "the stream holds entities that this owner does not know: was its database lost? Its subscribers \
                 still show them"
            );
        }
    }

    /// Counts the tombstones made for strangers: on each connection, and again only while there are any.
    pub(super) async fn count_tombstones(&mut self) -> Result<(), BoxError> {
        let now = Instant::now();
        if self.stream.is_none() || self.strangers.next_count.is_some_and(|next| now >= next) {
            let count = self.log.count_strangers().await?;
            self.metrics.stranger_tombstones.set(count as i64);
            self.strangers.next_count = (count > 0).then(|| now + COUNT_INTERVAL);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::Version;

    use super::*;
    use crate::allowance::STRANGERS_AT_ONCE;

    fn shown(n: usize) -> Published {
        let id = EntityId::new(&n.to_string()).unwrap();
        Published { id, version: Version::new(7).unwrap(), seq: n as u64 }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_bounded_and_the_stream_counts_as_read_up_to_the_first() {
        let mut strangers = Strangers::new();
        assert_eq!(strangers.known(100_000), 100_000);
        assert!(strangers.defer((1..=MAX_DEFERRED_STRANGERS).map(shown).collect()));
        assert!(!strangers.defer(vec![shown(MAX_DEFERRED_STRANGERS + 1)]));
        assert!(strangers.defer(vec![shown(7)]), "it waits already");
        assert_eq!(strangers.known(100_000), 0);
        let due = strangers.due();
        assert_eq!((due.len(), due[0].seq), (STRANGERS_AT_ONCE, 1));
        assert_eq!(strangers.known(100_000), STRANGERS_AT_ONCE as u64);
        assert_eq!(strangers.known(5), 5);
        strangers.forget();
        assert_eq!(strangers.known(100_000), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_stream_is_read_at_once_and_then_after_a_pause() {
        let mut strangers = Strangers::new();
        assert!(!strangers.reads_again());
        strangers.read_again();
        assert!(strangers.reads_again() && !strangers.reads_again());
        strangers.read_again();
        assert!(!strangers.reads_again(), "it was read just now");
        assert_eq!(strangers.known(9), 0, "whoever comes next reads it");
        tokio::time::advance(READING_INTERVAL).await;
        assert!(strangers.reads_again());
    }
}
