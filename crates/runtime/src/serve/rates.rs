//! How much each of many may spend a second. Pure: `now` is passed in.

use std::{
    collections::HashMap,
    hash::Hash,
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// A rate may be exceeded by what it allows in so much time.
const BURST: Duration = Duration::from_secs(1);
/// Those who are told apart. Beyond it, the others share one rate.
const MAX_APART: usize = 4_096;

/// The same rate for each.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    /// How often a second.
    rate: NonZeroU32,
    /// Until when each has used up its own; `None` are all who are not told apart.
    used_until: HashMap<Option<K>, Instant>,
}

impl<K: Clone + Eq + Hash> Rates<K> {
    pub(crate) fn of(rate: NonZeroU32) -> Self {
        Self { rate, used_until: HashMap::new() }
    }

    /// Whether it may spend.
    pub(crate) fn has_left(&self, who: &K, now: Instant) -> bool {
        self.used_until.get(&self.place(who)).is_none_or(|until| *until <= now)
    }

    /// It spends, whether it may or not.
    pub(crate) fn spend(&mut self, who: &K, now: Instant) {
        let unused = now.checked_sub(BURST).unwrap_or(now);
        if self.place(who).is_none() {
            // Those who have saved up all that they may.
            self.used_until.retain(|_, until| *until > unused);
        }
        let until = self.used_until.entry(self.place(who)).or_insert(unused);
        *until = (*until).max(unused) + Duration::from_secs(1) / self.rate.get();
    }

    fn place(&self, who: &K) -> Option<K> {
        let own = Some(who.clone());
        let is_apart = self.used_until.len() < MAX_APART || self.used_until.contains_key(&own);
        own.filter(|_| is_apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_rate_and_saves_up_a_second_of_it() {
        let now = Instant::now();
        let mut rates = Rates::of(NonZeroU32::new(4).unwrap());
        let mut spent = |who, now| {
            let had = rates.has_left(&who, now);
            rates.spend(&who, now);
            had
        };
        // What it saved up, and the one that is due.
        assert_eq!((0..10).filter(|_| spent("kim", now)).count(), 5);
        assert!(spent("lee", now));
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| spent("kim", later)).count(), 5);
    }

    #[test]
    fn however_many_there_are_their_number_in_memory_is_bounded() {
        let now = Instant::now();
        let mut rates = Rates::of(NonZeroU32::MIN);
        for who in 0..3 * MAX_APART {
            rates.spend(&who, now);
            rates.spend(&who, now);
        }
        assert_eq!(rates.used_until.len(), MAX_APART + 1);
        assert!(!rates.has_left(&(3 * MAX_APART), now), "the others share one");
        let later = now + Duration::from_secs(60 * MAX_APART as u64);
        rates.spend(&(3 * MAX_APART), later);
        assert_eq!(rates.used_until.len(), 1, "the others are forgotten");
    }
}
