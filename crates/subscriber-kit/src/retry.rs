//! Delays between attempts. The only file that uses the `backoff` crate.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use backoff::{ExponentialBackoff, backoff::Backoff};

/// How delays grow: exponentially, from `initial` to `max`.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Delay after the first failure.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
}

impl RetryPolicy {
    /// The delay after `failures` failures (at least one) of `key`: exponential, capped, and then shortened by up
    /// to half.
    ///
    /// By how much depends on the key and the count, not on a random number: keys that failed together are
    /// retried at different times, and a simulation sees the same delays every time.
    pub fn delay(&self, failures: u32, key: &str) -> Duration {
        let mut backoff = ExponentialBackoff {
            initial_interval: self.initial,
            current_interval: self.initial,
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_interval: self.max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut delay = self.initial;
        // Past 32 doublings every policy has reached its cap.
        for _ in 0..failures.clamp(1, 32) {
            delay = backoff.next_backoff().unwrap_or(self.max);
        }
        let mut hasher = DefaultHasher::new();
        (key, failures).hash(&mut hasher);
        let spread = (hasher.finish() % 1_000) as f64 / 1_000.0;
        delay.mul_f64(0.5 + spread / 2.0)
    }
}

/// Longest delay of work that waits for the read model's own database. Delays grow up to this limit so that
/// the owner is not asked over and over for answers that cannot be stored, and no further so that the read
/// model soon catches up once its database works.
const MAX_DATABASE_DELAY: Duration = Duration::from_secs(2);

/// Counts consecutive failures of one kind of database work.
#[derive(Debug, Default)]
pub(crate) struct InARow(AtomicU32);

impl InARow {
    /// Notes how the work ended.
    pub(crate) fn note(&self, failed: bool) {
        match failed {
            true => self.0.fetch_add(1, Relaxed),
            false => self.0.swap(0, Relaxed),
        };
    }

    /// The number of consecutive failures so far.
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// How long `key` waits for the read model's database after this many consecutive failures.
pub(crate) fn database_delay(policy: &RetryPolicy, failures: u32, key: &str) -> Duration {
    policy.delay(failures, key).min(MAX_DATABASE_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(10) };

    #[test]
    fn delays_double_up_to_the_cap() {
        for (failures, full) in
            [(1, 100), (2, 200), (3, 400), (7, 6_400), (8, 10_000), (99, 10_000)]
        {
            let (delay, full) = (POLICY.delay(failures, "a"), Duration::from_millis(full));
            assert!(delay >= full / 2 && delay <= full, "{failures}: {delay:?}");
        }
    }

    #[test]
    fn what_waits_for_the_database_waits_longer_each_time_and_never_very_long() {
        let trouble = InARow::default();
        let after = |failures| {
            (0..failures).for_each(|_| trouble.note(true));
            database_delay(&POLICY, trouble.count(), "a")
        };
        let delays = [after(1), after(1), after(1)];
        assert!(delays.is_sorted() && delays[2] > delays[0], "{delays:?}");
        assert_eq!(after(50), MAX_DATABASE_DELAY);
        trouble.note(false);
        assert_eq!(after(1), delays[0]);
    }

    #[test]
    fn keys_that_failed_together_come_back_apart() {
        let delays: std::collections::BTreeSet<_> =
            (0..100).map(|n| POLICY.delay(5, &n.to_string())).collect();
        assert!(delays.len() > 80, "{}", delays.len());
        assert_eq!(POLICY.delay(5, "a"), POLICY.delay(5, "a"));
    }
}
