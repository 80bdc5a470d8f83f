//! Backoff for repeating something that should be needed only once.

use std::time::Duration;

use tokio::time::Instant;

/// First pause before a repetition; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause, and how long it must have been unnecessary before it is again done immediately.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// For example, a repair that somebody undoes. The first one is immediate.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// When it was last done, and the pause after that.
    last: Option<(Instant, Duration)>,
}

impl Again {
    /// Whether the pause is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(last, pause)| now >= last + pause)
    }

    /// Notes that it is done now.
    pub(super) fn done(&mut self, now: Instant) {
        let pause = match self.last {
            Some((last, pause)) if now < last + LONGEST_PAUSE * 2 => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses between `times` that it is done, each as soon as it is due and looked for, which is every `look`.
    fn pauses(again: &mut Again, start: Instant, look: Duration, times: usize) -> Vec<u64> {
        let (mut now, mut done) = (start, Vec::new());
        while done.len() < times {
            if again.is_due(now) {
                again.done(now);
                done.push((now - start).as_secs());
            }
            now += look;
        }
        done.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn what_is_needed_again_and_again_is_done_ever_more_seldom() {
        let (start, look) = (Instant::now(), Duration::from_secs(5));
        let done = pauses(&mut Again::default(), start, look, 10);
        assert_eq!(done, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        // Also when it is not needed all the time.
        let done = pauses(&mut Again::default(), start, Duration::from_secs(30), 8);
        assert_eq!(done, [30, 30, 30, 60, 90, 180, 330]);
    }

    #[test]
    fn what_was_not_needed_for_long_is_done_at_once() {
        let (mut again, start) = (Again::default(), Instant::now());
        pauses(&mut again, start, Duration::from_secs(5), 9);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(pauses(&mut again, later, Duration::from_secs(5), 3), [5, 10]);
    }
}
