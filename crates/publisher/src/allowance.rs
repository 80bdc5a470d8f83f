//! How many tombstones may be made for IDs that the owner has no record of. A tombstone stays forever, so their
//! rate is limited: the first [`STRANGERS_AT_ONCE`] at once, then [`STRANGERS_PER_SECOND`].

use std::time::Duration;

use tokio::time::Instant;

/// Tombstones that are made without a pause, for IDs that the owner has no record of.
pub const STRANGERS_AT_ONCE: usize = 2_000;
/// How many more may be made each second.
pub const STRANGERS_PER_SECOND: usize = 100;

/// The number that may be made now.
#[derive(Debug)]
pub(crate) struct Allowance {
    allowed: usize,
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { allowed: STRANGERS_AT_ONCE, since: Instant::now() }
    }
}

impl Allowance {
    /// How many tombstones may be made now.
    pub(crate) fn allowed(&mut self) -> usize {
        let seconds = self.since.elapsed().as_secs();
        let more =
            usize::try_from(seconds).unwrap_or(usize::MAX).saturating_mul(STRANGERS_PER_SECOND);
        self.allowed = self.allowed.saturating_add(more).min(STRANGERS_AT_ONCE);
        // Unused allowance is not saved up.
        self.since = match self.allowed {
            STRANGERS_AT_ONCE => Instant::now(),
            _ => self.since + Duration::from_secs(seconds),
        };
        self.allowed
    }

    /// Notes how many were made.
    pub(crate) fn made(&mut self, strangers: u64) {
        self.allowed =
            self.allowed.saturating_sub(usize::try_from(strangers).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_are_allowed_at_once_and_then_so_many_a_second() {
        let mut allowance = Allowance::default();
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(allowance.allowed(), STRANGERS_AT_ONCE);
        allowance.made(STRANGERS_AT_ONCE as u64);
        assert_eq!(allowance.allowed(), 0);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(allowance.allowed(), STRANGERS_PER_SECOND);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(allowance.allowed(), 2 * STRANGERS_PER_SECOND);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(allowance.allowed(), STRANGERS_AT_ONCE);
    }
}
