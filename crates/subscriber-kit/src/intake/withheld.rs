//! Whether the broker withholds messages: pure, `now` is passed in.
//!
//! A server can forget to deliver for a while, or believe for good that a consumer has seen what it has not.
//! The stream's end tells: its last message is always there, so a consumer that was given everything stands at
//! it.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::source::Standing;

/// How long the consumer may stand still before the end of its stream, while there is room for more.
pub(super) const WITHHELD_AFTER: Duration = Duration::from_secs(5);
/// Looks that lie further apart say nothing of the time between: nobody asked for messages then.
const MAX_BETWEEN_LOOKS: Duration = Duration::from_secs(3);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// Where the consumer stands still, and since when.
    still: Option<(u64, Instant)>,
    last_look: Option<Instant>,
    /// Up to here was read past the consumer.
    read_to: u64,
    /// Whether anything was there.
    found: bool,
}

impl Withheld {
    /// Looks at a standing. `asking` says whether there is room for more and it is asked for. Returns the
    /// sequences that must be read past the consumer, if any.
    pub(super) fn look(
        &mut self,
        now: &Standing,
        asking: bool,
        at: Instant,
    ) -> Option<RangeInclusive<u64>> {
        let last_look = self.last_look.replace(at);
        let watched = last_look.is_some_and(|last| at.duration_since(last) <= MAX_BETWEEN_LOOKS);
        if !asking || now.delivered >= now.last_sequence {
            (self.still, self.found) = (None, false);
            return None;
        }
        match self.still {
            Some((delivered, since)) if delivered == now.delivered && watched => {
                let from = now.delivered.max(self.read_to) + 1;
                let overdue = at.duration_since(since) >= WITHHELD_AFTER;
                (overdue && from <= now.last_sequence).then(|| {
                    self.read_to = now.last_sequence;
                    from..=now.last_sequence
                })
            }
            _ => {
                (self.still, self.found) = (Some((now.delivered, at)), false);
                None
            }
        }
    }

    /// Notes whether there was a message in what was to be read. Where an operator removed the last ones, there
    /// is none.
    pub(super) fn read(&mut self, any: bool) {
        self.found |= any;
    }

    /// Whether messages were read past the consumer, and it has not moved since.
    pub(super) fn is_bypassed(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(delivered: u64, last_sequence: u64) -> Standing {
        Standing { delivered, last_sequence, ..Standing::default() }
    }

    /// Looks once a second. Returns what was to be read, with the second.
    fn look(
        seconds: impl IntoIterator<Item = (u64, Standing, bool)>,
    ) -> Vec<(u64, RangeInclusive<u64>)> {
        let (began, mut withheld) = (Instant::now(), Withheld::default());
        let looks = seconds.into_iter().filter_map(|(second, standing, asking)| {
            let at = began + Duration::from_secs(second);
            withheld.look(&standing, asking, at).map(|range| (second, range))
        });
        looks.collect()
    }

    #[test]
    fn a_consumer_at_the_end_of_its_stream_withholds_nothing() {
        assert_eq!(look((0..60).map(|second| (second, standing(7, 7), true))), []);
    }

    #[test]
    fn what_is_not_delivered_in_time_is_read_once() {
        let looks = (0..60).map(|second| (second, standing(7, 9), true));
        assert_eq!(look(looks), [(5, 8..=9)]);
        // Whatever comes next is read, too, and nothing twice.
        let looks = (0..60).map(|second| (second, standing(7, 9 + second / 20), true));
        assert_eq!(look(looks), [(5, 8..=9), (20, 10..=10), (40, 11..=11)]);
    }

    #[test]
    fn a_consumer_is_bypassed_while_it_stands_before_messages_that_were_read() {
        let (began, mut withheld) = (Instant::now(), Withheld::default());
        let second = |second| began + Duration::from_secs(second);
        for at in 0..=5 {
            withheld.look(&standing(7, 9), true, second(at));
        }
        withheld.read(false);
        assert!(!withheld.is_bypassed(), "nothing was there");
        withheld.look(&standing(7, 10), true, second(6));
        withheld.read(true);
        assert!(withheld.is_bypassed());
        withheld.look(&standing(10, 10), true, second(7));
        assert!(!withheld.is_bypassed());
    }

    #[test]
    fn a_consumer_that_moves_is_only_slow() {
        assert_eq!(look((0..60).map(|second| (second, standing(second / 4, 90), true))), []);
    }

    #[test]
    fn nobody_withholds_what_is_not_asked_for() {
        assert_eq!(look((0..60).map(|second| (second, standing(7, 9), false))), []);
        // Nor what was not asked for between two looks.
        assert_eq!(look((0..60).map(|second| (second * 4, standing(7, 9), true))), []);
    }
}
