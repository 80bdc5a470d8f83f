//! What is left to chance about notifications, decided by a seed. Pure: the same seed decides the same.

use nudge_chance::Random;

/// Which of the notifications that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Each with this probability, in percent.
    Percent(u64),
    /// The first ones, this many.
    Next(u64),
}

/// Whether the notification of this number is one of them. Numbers count from 0, when the disturbance began.
pub(super) fn chosen(seed: u64, number: u64, which: Which) -> bool {
    match which {
        Which::Percent(percent) => Random::stream(seed, number).chance(percent * 10),
        Which::Next(count) => number < count,
    }
}

/// In which order held-back notifications are released, as indices. The first of them had the number `first`.
pub(super) fn order(seed: u64, first: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    Random::stream(seed, first).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_same_each_time_and_another_seed_something_else() {
        let half = |seed| (0..200).map(|n| chosen(seed, n, Which::Percent(50))).collect::<Vec<_>>();
        assert_eq!(half(7), half(7));
        assert_ne!(half(7), half(8));
        assert_eq!(order(7, 0, 20), order(7, 0, 20));
        assert_ne!(order(7, 0, 20), order(8, 0, 20));
        assert_ne!(order(7, 0, 20), order(7, 20, 20), "each group has its own order");
    }

    #[test]
    fn as_many_are_chosen_as_were_asked_for() {
        let count = |which| (0..10_000).filter(|n| chosen(1, *n, which)).count();
        assert_eq!([0, 100].map(|percent| count(Which::Percent(percent))), [0, 10_000]);
        let fifth = count(Which::Percent(20));
        assert!((1_800..2_200).contains(&fifth), "{fifth}");
        assert_eq!((count(Which::Next(3)), count(Which::Next(0))), (3, 0));
        assert!(chosen(1, 2, Which::Next(3)) && !chosen(1, 3, Which::Next(3)));
    }

    #[test]
    fn an_order_has_each_once() {
        let mut found = order(3, 5, 64);
        assert_ne!(found, (0..64).collect::<Vec<_>>());
        found.sort_unstable();
        assert_eq!(found, (0..64).collect::<Vec<_>>());
        assert!(order(3, 5, 0).is_empty());
    }
}
