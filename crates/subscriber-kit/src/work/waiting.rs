//! Waiting until keys that were put onto the queue are done.

use std::time::Duration;

use tokio::time::Instant;

/// A wait until nothing is left, as long as that makes progress.
#[derive(Debug)]
pub(crate) struct Waiting {
    patience: Duration,
    fewest: u64,
    since: Instant,
}

impl Waiting {
    /// A wait that ends after so long without progress.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, fewest: u64::MAX, since: Instant::now() }
    }

    /// Whether to go on waiting if so many are left.
    pub(crate) fn goes_on(&mut self, left: u64) -> bool {
        if left < self.fewest {
            (self.fewest, self.since) = (left, Instant::now());
        }
        left > 0 && self.since.elapsed() < self.patience
    }

    /// Whether some were left when it ended.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.fewest > 0
    }
}
