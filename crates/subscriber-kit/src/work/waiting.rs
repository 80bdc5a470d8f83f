//! Waiting until keys that were put onto the queue are done.

use std::time::Duration;

use tokio::time::Instant;

/// A wait until nothing is left, as long as that makes progress.
#[derive(Debug)]
pub(crate) struct Waiting {
    patience: Duration,
    fewest: u64,
    answered: u64,
    since: Instant,
}

impl Waiting {
    /// A wait that ends after so long without progress.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, fewest: u64::MAX, answered: 0, since: Instant::now() }
    }

    /// Whether to go on waiting if so many are left, and the owner has answered so much, for whichever key: it may be
    /// slow. `None` while it asks to come again later.
    pub(crate) fn goes_on(&mut self, left: u64, answered: Option<u64>) -> bool {
        if left < self.fewest || answered != Some(self.answered) {
            self.since = Instant::now();
        }
        self.fewest = left.min(self.fewest);
        self.answered = answered.unwrap_or(self.answered);
        left > 0 && self.since.elapsed() < self.patience
    }

    /// Whether some were left when it ended.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.fewest > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_while_the_owner_answers_or_asks_to_come_again_later() {
        let patience = Duration::from_secs(2);
        let mut waiting = Waiting::new(patience);
        let second = || tokio::time::advance(Duration::from_secs(1));
        for answered in [Some(1), Some(2), None, None, None, Some(2)] {
            assert!(waiting.goes_on(7, answered), "{answered:?}");
            second().await;
        }
        assert!(waiting.goes_on(6, Some(2)), "one less is left");
        second().await;
        assert!(waiting.goes_on(6, Some(2)));
        second().await;
        assert!(!waiting.goes_on(6, Some(2)) && waiting.is_in_vain());
        assert!(!Waiting::new(patience).goes_on(0, Some(3)), "nothing is left");
    }
}
