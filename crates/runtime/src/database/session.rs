//! Which open connections may be used again.
//!
//! Some failures belong to a connection and stay with it: a plan that it cached before a column changed its
//! type, a session that began read-only, a server that is no longer the primary. One such failure puts all
//! currently open connections in doubt. Each is replaced when it is next needed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Least time between two doubts, so that pieces of work that fail on any connection do not keep replacing
/// each other's connections.
const DOUBT_INTERVAL: Duration = Duration::from_millis(200);

/// When connections were last in doubt. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Doubts>>);

#[derive(Debug, Default)]
struct Doubts {
    /// No connection that was opened before is used again.
    last: Option<Instant>,
    /// A failure came too soon after the last one: there is another doubt when the interval has passed.
    another: bool,
}

impl Doubts {
    /// The last doubt, as of `now`.
    fn last(&mut self, now: Instant) -> Option<Instant> {
        if self.another && self.next().is_some_and(|next| next <= now) {
            *self = Self { last: self.next(), another: false };
        }
        self.last
    }

    /// When the next doubt may be.
    fn next(&self) -> Option<Instant> {
        Some(self.last? + DOUBT_INTERVAL)
    }
}

impl Sessions {
    /// Puts all connections that are open now in doubt, because of work that began at `began` and failed. If
    /// they were in doubt since, that was the reason already. If not, but they were only just replaced, they
    /// are replaced again after [`DOUBT_INTERVAL`].
    pub(super) fn doubt(&self, began: Instant) {
        let mut doubts = self.0.lock();
        let now = Instant::now();
        match doubts.last(now) {
            Some(last) if began < last => return,
            Some(last) if now < last + DOUBT_INTERVAL => doubts.another = true,
            _ => doubts.last = Some(now),
        }
        drop(doubts);
        tracing::warn!("replacing all open database connections");
    }

    /// Whether a connection of this age may be used again.
    pub(super) fn trusts(&self, age: Duration) -> bool {
        let now = Instant::now();
        let last = self.0.lock().last(now);
        last.is_none_or(|last| age < now - last)
    }

    /// Waits until no connection is used that was open when work began at `began` and made them doubtful:
    /// for at most [`DOUBT_INTERVAL`].
    pub(super) async fn replaced(&self, began: Instant) {
        let due = {
            let mut doubts = self.0.lock();
            let replaced = doubts.last(Instant::now()).is_none_or(|last| began < last);
            if replaced || !doubts.another { None } else { doubts.next() }
        };
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_about_the_connections_of_its_time() {
        let sessions = Sessions::default();
        assert!(sessions.trusts(Duration::from_secs(3_600)));
        sessions.doubt(Instant::now());
        assert!(!sessions.trusts(Duration::from_secs(1)));
        assert!(!sessions.clone().trusts(Duration::from_secs(1)));
        // The next one is trusted once the clock has moved.
        while !sessions.trusts(Duration::ZERO) {}
    }

    #[test]
    fn failures_of_the_same_connections_are_one_doubt() {
        let sessions = Sessions::default();
        let began = Instant::now();
        while Instant::now() <= began {}
        sessions.doubt(began);
        let first = sessions.0.lock().last;
        sessions.doubt(began);
        let doubts = sessions.0.lock();
        assert_eq!((doubts.last, doubts.another), (first, false));
    }

    /// What was opened after one doubt may have gone bad as well, so the next one is late, but never lost.
    #[tokio::test]
    async fn a_failure_right_after_a_doubt_is_another_one_later() {
        let sessions = Sessions::default();
        sessions.doubt(Instant::now());
        let first = sessions.0.lock().last.expect("it was just now");
        let began = Instant::now();
        sessions.doubt(began);
        assert_eq!(sessions.0.lock().last, Some(first), "not at once");
        let opened = Instant::now();
        sessions.replaced(began).await;
        assert!(first.elapsed() >= DOUBT_INTERVAL);
        assert!(!sessions.trusts(opened.elapsed()));
        assert_eq!(sessions.0.lock().last, Some(first + DOUBT_INTERVAL));
        sessions.replaced(began).await;
    }
}
