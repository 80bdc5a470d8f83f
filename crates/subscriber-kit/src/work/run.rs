//! What the work queue takes and gives out.

use std::time::Duration;

use nudge_protocol::{EntityId, Version};

/// What the queue is told about its pace.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Shortest time between the starts of two runs of a key.
    pub min_distance: Duration,
    /// Longest time that fresh notifications may keep going before waiting backlog.
    pub max_wait: Duration,
}

/// Where work came from: it decides only who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// A notification just published.
    Fresh,
    /// Catch-up, retries, replays, resync.
    Backlog,
}

/// What makes a key need work.
#[derive(Debug)]
pub(crate) struct Work<T> {
    /// Who goes first.
    pub(crate) lane: Lane,
    /// What to acknowledge once the work is done.
    pub(crate) token: Option<T>,
    /// The lowest version that a callback may answer with and be called up to date.
    pub(crate) floor: Version,
    /// The message named no version: its callback gets a second look.
    pub(crate) unsure: bool,
    /// Failed runs so far, when the work comes back from the dead-letter table. If there are any,
    /// the key runs apart from those that did not fail.
    pub(crate) attempts: u32,
}

/// One run of one key. It is given back to the queue when it is over.
#[derive(Clone, Debug)]
pub(crate) struct Run<T> {
    /// The key.
    pub(crate) id: EntityId,
    /// What to acknowledge: everything that arrived before the run began.
    pub(crate) tokens: Vec<T>,
    /// The highest floor among that work.
    pub(crate) floor: Version,
    /// Whether some of it named no version.
    pub(crate) unsure: bool,
    /// Failed runs so far.
    pub(crate) attempts: u32,
}

/// Why a key must run again. How it waits for that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The owner fails, whatever it is asked for.
    OwnerFailed,
    /// The read model's database, or its dead-letter table, could not be written.
    DatabaseFailed,
    /// The notification named no version, so that the answer may be older than it.
    SecondLook,
    /// The owner's answer is older than the notification, or it does not know the key.
    NotYet,
    /// The callback, or applying what it answered, failed because of this key, and took the rest of its
    /// batch along.
    KeyFailed,
}

impl Cause {
    /// Whether it counts as a failed run of the key.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::NotYet | Self::KeyFailed)
    }

    /// Whether new work of the key may run before the wait is over: not while the owner, or the
    /// database, is to be spared.
    pub(crate) const fn yields(self) -> bool {
        matches!(self, Self::SecondLook | Self::NotYet)
    }

    /// Whether the key runs apart from those that did not fail.
    pub(crate) const fn spoils(self) -> bool {
        matches!(self, Self::KeyFailed)
    }

    /// Whether a second look that was owed is owed still.
    pub(crate) const fn owes_second_look(self) -> bool {
        !matches!(self, Self::SecondLook)
    }
}
