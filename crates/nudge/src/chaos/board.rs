//! The state of a run: active faults, work done, how subscribers are doing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nudge_protocol::admin::EntityStatus;
use parking_lot::Mutex;

use super::plan::{Fault, Kind, Place};

/// Most stores in one call to the owner: the default of the kit's `max_batch_keys`.
pub(super) const MAX_BATCH_STORES: u64 = 256;
/// Most failed faults that are reported.
const MAX_SKIPPED: usize = 50;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Board(Mutex<State>);

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// By their place in the plan.
    pub(super) under_way: BTreeMap<usize, Fault>,
    /// How often each kind has happened.
    pub(super) done: BTreeMap<Kind, u64>,
    /// The same for each place.
    pub(super) done_on: BTreeMap<Place, BTreeMap<Kind, u64>>,
    /// Starts of services that failed because the database was away.
    pub(super) failed_starts: u64,
    /// Faults that could not be injected, and why.
    pub(super) skipped: Vec<String>,
    /// In the order of `World::subscribers`.
    pub(super) subscribers: Vec<Follower>,
}

/// What is known about a subscriber.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    pub(super) name: String,
    /// None when it did not answer just now.
    pub(super) status: Option<EntityStatus>,
    /// Calls to the owner, each of up to [`MAX_BATCH_STORES`].
    pub(super) callbacks: Counted,
    /// Stores that these asked for.
    pub(super) asked: Counted,
    pub(super) longest_gap: Duration,
}

/// The sum of a counter that restarts at 0 with its program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counted {
    before: u64,
    last: u64,
}

impl Counted {
    pub(super) fn note(&mut self, now: u64) {
        if now < self.last {
            self.before += self.last;
        }
        self.last = now;
    }

    /// A lower bound: what a program counted between the last poll and its end is unknown.
    pub(super) fn total(self) -> u64 {
        self.before + self.last
    }
}

impl Board {
    /// With subscribers of these names, about which nothing is known.
    pub(super) fn new(subscribers: impl IntoIterator<Item = String>) -> Self {
        let follower = |name| Follower { name, ..Follower::default() };
        let subscribers = subscribers.into_iter().map(follower).collect();
        Self(Mutex::new(State { subscribers, ..State::default() }))
    }

    /// Reads or changes what is known.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock())
    }
}

impl State {
    pub(super) fn began(&mut self, place: usize, fault: &Fault) {
        self.under_way.insert(place, fault.clone());
        *self.done.entry(fault.kind).or_default() += 1;
        *self.done_on.entry(fault.place()).or_default().entry(fault.kind).or_default() += 1;
    }

    pub(super) fn skipped(&mut self, fault: &Fault, why: &str) {
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(format!("{fault}: {why}"));
        }
    }
}

/// The longest time without a good answer, up to now.
#[derive(Debug)]
pub(super) struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO }
    }

    /// An answer has come, or not.
    pub(super) fn note(&mut self, now: Instant, good: bool) -> Duration {
        self.longest = self.longest.max(now - self.last);
        if good {
            self.last = now;
        }
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_before_a_restart_count() {
        let mut callbacks = Counted::default();
        [5, 9, 2, 2, 1].into_iter().for_each(|now| callbacks.note(now));
        assert_eq!(callbacks.total(), 9 + 2 + 1);
    }

    #[test]
    fn a_gap_lasts_from_one_good_answer_to_the_next() {
        let start = Instant::now();
        let mut gap = Gap::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(gap.note(at(10), true), Duration::from_millis(10));
        gap.note(at(30), false);
        assert_eq!(gap.note(at(70), true), Duration::from_millis(60));
        assert_eq!(gap.note(at(80), true), Duration::from_millis(60));
        assert_eq!(gap.note(at(200), false), Duration::from_millis(120), "it goes on");
    }
}
