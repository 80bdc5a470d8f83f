//! Which open connections may be used again.
//!
//! Some failures belong to a connection and stay with it: a plan that it cached before a column changed its
//! type, a session that began read-only, a server that is no longer the primary. One such failure puts all
//! currently open connections in doubt. Each is replaced when it is next needed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Least time between two doubts, so that pieces of work that fail on any connection do not keep replacing
/// each other's connections.
const DOUBT_INTERVAL: Duration = Duration::from_millis(200);

/// When connections were last in doubt. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    began: Instant,
    /// In microseconds since `began`; 0 is never.
    doubted: Arc<AtomicU64>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { began: Instant::now(), doubted: Arc::default() }
    }
}

impl Sessions {
    /// Puts all connections that are open now in doubt.
    pub(super) fn doubt(&self) {
        let now = self.now();
        let least = DOUBT_INTERVAL.as_micros() as u64;
        let due = |before: u64| (before == 0 || now >= before + least).then_some(now);
        if self.doubted.fetch_update(Relaxed, Relaxed, due).is_ok() {
            tracing::warn!("replacing all open database connections");
        }
    }

    /// Whether a connection of this age may be used again.
    pub(super) fn trusts(&self, age: Duration) -> bool {
        let doubted = self.doubted.load(Relaxed);
        doubted == 0 || age.as_micros() < u128::from(self.now().saturating_sub(doubted))
    }

    /// At least 1, since 0 means never.
    fn now(&self) -> u64 {
        (self.began.elapsed().as_micros() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_about_the_connections_of_its_time() {
        let sessions = Sessions::default();
        assert!(sessions.trusts(Duration::from_secs(3_600)));
        sessions.doubt();
        assert!(!sessions.trusts(Duration::from_secs(1)));
        assert!(!sessions.clone().trusts(Duration::from_secs(1)));
        // The next one is trusted once the clock has moved.
        while !sessions.trusts(Duration::ZERO) {}
    }

    #[test]
    fn doubts_that_follow_at_once_are_one() {
        let sessions = Sessions::default();
        sessions.doubt();
        let first = sessions.doubted.load(Relaxed);
        sessions.doubt();
        assert_eq!(sessions.doubted.load(Relaxed), first);
        sessions.doubted.store(0, Relaxed);
        sessions.doubt();
        assert!(sessions.doubted.load(Relaxed) >= first);
    }
}
