//! The input and output of the work queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use nudge_protocol::sync_api::Lane;
use nudge_protocol::{EntityId, Timestamp, Version};

/// Limits of the work queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Shortest time between the starts of two runs of a key.
    pub min_distance: Duration,
    /// How long fresh notifications may go before waiting backlog.
    pub max_wait: Duration,
}

/// What makes a key need work.
#[derive(Debug)]
pub(crate) struct Work<T> {
    /// Decides the order.
    pub(crate) lane: Lane,
    /// What to acknowledge once the work is done.
    pub(crate) token: Option<T>,
    /// The lowest version with which a callback's answer is up to date.
    pub(crate) floor: Version,
    /// Whether the message named no version, so that its callback must be repeated.
    pub(crate) unsure: bool,
    /// Number of failed runs so far, if the work comes back from the dead-letter table. If not 0, the key runs apart
    /// from those that have not failed.
    pub(crate) attempts: u32,
    /// Where it came from, for those who ask.
    pub(crate) heard: Heard,
}

/// What a key is to run for. It decides nothing: it is kept to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// When the first of it arrived.
    pub(crate) since: Timestamp,
    /// Messages among it.
    pub(crate) notifications: u32,
    /// The highest stream sequence among them; 0 if unknown.
    pub(crate) sequence: u64,
    /// When the broker stored that message.
    pub(crate) published_at: Option<Timestamp>,
}

impl Heard {
    /// Work that no message asked for.
    pub(crate) const fn unasked(since: Timestamp) -> Self {
        Self { since, notifications: 0, sequence: 0, published_at: None }
    }

    /// A message that arrives now.
    pub(crate) const fn message(
        since: Timestamp,
        sequence: u64,
        published_at: Option<Timestamp>,
    ) -> Self {
        Self { since, notifications: 1, sequence, published_at }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        let newer = if other.sequence > self.sequence { other } else { self };
        Self {
            since: self.since.min(other.since),
            notifications: self.notifications.saturating_add(other.notifications),
            ..newer
        }
    }
}

/// One run of one key. It is given back to the queue when it is over.
#[derive(Clone, Debug)]
pub(crate) struct Run<T> {
    /// The key.
    pub(crate) id: EntityId,
    /// Where it came from. Like the queue's, it decides only the order.
    pub(crate) lane: Lane,
    /// What to acknowledge: everything that arrived before the run started.
    pub(crate) tokens: Vec<T>,
    /// The highest floor among that work.
    pub(crate) floor: Version,
    /// Whether some of it named no version.
    pub(crate) unsure: bool,
    /// Number of failed runs so far.
    pub(crate) attempts: u32,
    /// The end of the first of them in which the owner did not know the key.
    pub(crate) unknown_since: Option<Instant>,
    /// What it runs for.
    pub(crate) heard: Heard,
    /// Why the last run did not succeed, as text.
    pub(crate) error: Option<Arc<str>>,
}

/// The lane of a batch: all its runs are of the same.
pub(crate) fn lane_of<T>(runs: &[Run<T>]) -> Lane {
    runs.first().map_or(Lane::Backlog, |run| run.lane)
}

/// How a key stands in the queue, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Whether it is in a run.
    pub(crate) processing: bool,
    /// What that run, or the next one, is for.
    pub(crate) heard: Heard,
    pub(crate) lane: Lane,
    pub(crate) floor: Version,
    /// When it may run, if it waits for that.
    pub(crate) due: Option<Instant>,
    /// Number of failed runs so far.
    pub(crate) attempts: u32,
    pub(crate) error: Option<Arc<str>>,
}

/// Why a key must run again. It determines how the key waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The owner fails for every key.
    OwnerFailed,
    /// The read model's database, or its dead-letter table, could not be written.
    DatabaseFailed,
    /// The notification named no version, so the answer may be older than the change.
    SecondLook,
    /// The owner's answer is older than the notification.
    NotYet,
    /// The owner does not know the key.
    Unknown,
    /// The callback, or applying its answer, failed because of this key, and the rest of its batch with it.
    KeyFailed,
}

impl Cause {
    /// Whether it counts as a failed run of the key.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::NotYet | Self::Unknown | Self::KeyFailed)
    }

    /// Whether new work on the key may run before the wait is over. Not if the wait is to spare the owner or the
    /// database.
    pub(crate) const fn yields(self) -> bool {
        matches!(self, Self::SecondLook | Self::NotYet | Self::Unknown)
    }

    /// Whether the key runs apart from those that have not failed.
    pub(crate) const fn spoils(self) -> bool {
        matches!(self, Self::KeyFailed)
    }

    /// Whether a second callback that was due is still due.
    pub(crate) const fn owes_second_look(self) -> bool {
        !matches!(self, Self::SecondLook)
    }
}
