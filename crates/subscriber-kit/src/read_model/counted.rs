//! Numbers of rows that are kept for a while, because counting a large table reads all of it.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A count that takes less time is made whenever somebody asks.
const CHEAP_COUNT: Duration = Duration::from_millis(10);
/// How many times longer than it took any other count is valid: of 1,000,000 rows, one takes half a second.
const COUNT_SHARE: u32 = 50;
/// Longest validity, however long a count took: the program may have been frozen meanwhile.
const MAX_COUNT_AGE: Duration = Duration::from_secs(60);
/// A count of fewer rows is made whenever somebody asks: if it took long, something else held it up.
const MANY_ROWS: u64 = 10_000;

/// What was counted last, of type `T`. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Counted<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    kept: Option<Kept<T>>,
    /// How often it was forgotten: what was counted meanwhile is not kept.
    forgotten: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kept<T> {
    what: T,
    rows: u64,
    at: Instant,
    took: Duration,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { kept: None, forgotten: 0 })))
    }
}

impl<T: Copy> Counted<T> {
    /// What was counted before, if that is still valid; otherwise counts, and says with the result how many rows were read.
    pub(super) async fn get<E>(
        &self,
        count: impl Future<Output = Result<(T, u64), E>>,
    ) -> Result<T, E> {
        let forgotten = {
            let state = self.0.lock();
            if let Some(kept) = state.kept.filter(Kept::is_valid) {
                return Ok(kept.what);
            }
            state.forgotten
        };
        let began = Instant::now();
        let (what, rows) = count.await?;
        let (at, mut state) = (Instant::now(), self.0.lock());
        if state.forgotten == forgotten {
            state.kept = Some(Kept { what, rows, at, took: at - began });
        }
        Ok(what)
    }

    /// What was counted is not valid any more.
    pub(super) fn forget(&self) {
        let mut state = self.0.lock();
        (state.kept, state.forgotten) = (None, state.forgotten + 1);
    }
}

impl<T> Kept<T> {
    fn is_valid(&self) -> bool {
        let is_dear = self.took >= CHEAP_COUNT && self.rows >= MANY_ROWS;
        is_dear && self.at.elapsed() < MAX_COUNT_AGE.min(self.took * COUNT_SHARE)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_count_is_valid_for_longer_the_longer_it_took() {
        let counted = async |took, rows| {
            let counted = Counted::default();
            let count = async {
                tokio::time::sleep(Duration::from_millis(took)).await;
                Ok::<_, Infallible>((1, rows))
            };
            assert_eq!(counted.get(count).await, Ok(1));
            move || {
                let again = counted.clone();
                async move { again.get(async { Ok::<_, Infallible>((2, rows)) }).await == Ok(1) }
            }
        };
        for (took, rows, valid) in
            [(9, 1_000_000, 0), (2_000, 50, 0), (500, 1_000_000, 25), (9_000, 1_000_000, 60)]
        {
            if let Some(before) = u64::checked_sub(valid, 1) {
                let is_kept = counted(took, rows).await;
                tokio::time::advance(Duration::from_secs(before)).await;
                assert!(is_kept().await, "{took} ms, {rows} rows");
            }
            let is_kept = counted(took, rows).await;
            tokio::time::advance(Duration::from_secs(valid)).await;
            assert!(!is_kept().await, "{took} ms, {rows} rows");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_is_counted_again() {
        let counted = Counted::default();
        let slow = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>((1, 1_000_000))
        };
        assert_eq!(counted.get(slow).await, Ok(1));
        let again = || async { Ok::<_, Infallible>((2, 1_000_000)) };
        assert_eq!(counted.get(again()).await, Ok(1));
        counted.forget();
        // As is what was being counted then.
        let meanwhile = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            counted.forget();
            Ok::<_, Infallible>((1, 1_000_000))
        };
        assert_eq!(counted.get(meanwhile).await, Ok(1));
        assert_eq!(counted.get(again()).await, Ok(2));
    }
}
