//! Limits log lines that could come by the thousand.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The window in which lines are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// Maximum number of lines of one kind in a window.
const MAX_LINES: u32 = 10;

/// Lets the first lines of a kind through and counts the others, so that a hundred thousand bad messages do not
/// fill the disk with log lines.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Seldom {
    /// Whether one more line may be logged.
    pub(crate) fn may_say(&self) -> bool {
        let mut said = self.0.lock();
        let now = Instant::now();
        if said.began.is_none_or(|began| now >= began + WINDOW) {
            (said.began, said.lines) = (Some(now), 0);
        }
        let may = said.lines < MAX_LINES;
        said.lines += u32::from(may);
        said.left_out += u64::from(!may);
        may
    }

    /// How many lines were left out since the last answer, at most once per window; `None` if there were none.
    pub(crate) fn left_out(&self) -> Option<u64> {
        let mut said = self.0.lock();
        let over = said.began.is_none_or(|began| Instant::now() >= began + WINDOW);
        (over && said.left_out > 0).then(|| std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_are_said_and_the_others_counted() {
        let seldom = Seldom::default();
        let said = (0..1_000).filter(|_| seldom.may_say()).count();
        assert_eq!((said, seldom.left_out()), (MAX_LINES as usize, None));
        tokio::time::advance(WINDOW).await;
        assert_eq!((seldom.left_out(), seldom.left_out()), (Some(990), None));
        assert!(seldom.may_say());
    }
}
