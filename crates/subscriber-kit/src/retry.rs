//! Delays between tries. The only file that names the `backoff` crate.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use backoff::{ExponentialBackoff, backoff::Backoff};

/// How delays grow.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Delay after the first failure.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
}

impl RetryPolicy {
    /// The delay after `failures` failures (at least one) of `key`: exponential, capped, and spread
    /// over its upper half.
    ///
    /// The spread comes from the key and the count, not from a random number: keys that failed
    /// together come back apart, and a simulation sees the same delays every time.
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
    fn keys_that_failed_together_come_back_apart() {
        let delays: std::collections::BTreeSet<_> =
            (0..100).map(|n| POLICY.delay(5, &n.to_string())).collect();
        assert!(delays.len() > 80, "{}", delays.len());
        assert_eq!(POLICY.delay(5, "a"), POLICY.delay(5, "a"));
    }
}
