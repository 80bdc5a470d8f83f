//! How far the first catch-up is, and about how long it still takes.

use nudge_protocol::admin::CatchingUp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// What was left at the beginning and is left now.
#[derive(Debug, Default)]
pub(crate) struct CatchUp(Mutex<Option<Looks>>);

#[derive(Clone, Copy, Debug)]
struct Looks {
    began: Instant,
    at_first: u64,
    left: u64,
}

impl CatchUp {
    /// Notes that so many notifications are left.
    pub(crate) fn note(&self, left: u64) {
        let mut looks = self.0.lock();
        let first = Looks { began: Instant::now(), at_first: left, left };
        let looks = looks.get_or_insert(first);
        // What is published meanwhile is left, too.
        looks.at_first = looks.at_first.max(left);
        looks.left = left;
    }

    /// How far it is; `None` before the first look.
    pub(crate) fn so_far(&self) -> Option<CatchingUp> {
        let Looks { began, at_first, left } = (*self.0.lock())?;
        let handled = at_first - left;
        let pace = began.elapsed().as_secs_f64() / handled as f64;
        let seconds_left = (handled > 0).then_some(pace * left as f64);
        Some(CatchingUp { handled, left, seconds_left })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_so_far_tells_how_long_it_takes() {
        let catch_up = CatchUp::default();
        assert_eq!(catch_up.so_far(), None);
        catch_up.note(1_000);
        let expected = CatchingUp { handled: 0, left: 1_000, seconds_left: None };
        assert_eq!(catch_up.so_far(), Some(expected));
        tokio::time::advance(Duration::from_secs(4)).await;
        catch_up.note(800);
        let expected = CatchingUp { handled: 200, left: 800, seconds_left: Some(16.0) };
        assert_eq!(catch_up.so_far(), Some(expected));
        // More than at first: the pace is unknown again.
        catch_up.note(1_200);
        let expected = CatchingUp { handled: 0, left: 1_200, seconds_left: None };
        assert_eq!(catch_up.so_far(), Some(expected));
    }
}
