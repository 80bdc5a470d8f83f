//! Detects a broker that withholds messages. Pure: `now` is passed in.
//!
//! A server can fail to deliver for a while, or wrongly believe for good that a consumer has seen a message. The end
//! of the stream reveals it: its last message always exists, so a consumer that was given everything is at that
//! sequence.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::source::ConsumerState;

/// How long the consumer may stay short of the end of its stream while more is asked for.
pub(super) const WITHHELD_AFTER: Duration = Duration::from_secs(5);
/// Checks further apart than this prove nothing about the time between, when nobody asked for messages.
const MAX_BETWEEN_LOOKS: Duration = Duration::from_secs(3);

/// What was observed so far.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// The sequence at which the consumer is stuck, and since when.
    still: Option<(u64, Instant)>,
    last_look: Option<Instant>,
    /// The last sequence that was read bypassing the consumer.
    read_to: u64,
    /// Whether that found any message.
    found: bool,
}

impl Withheld {
    /// Checks the positions. `asking` says whether there is room for more messages and they are being asked for.
    /// Returns the sequences that must be read bypassing the consumer, if any.
    pub(super) fn look(
        &mut self,
        now: &ConsumerState,
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

    /// Notes whether the sequences that were read contained any message. They contain none if an operator has removed
    /// the last ones.
    pub(super) fn read(&mut self, any: bool) {
        self.found |= any;
    }

    /// Whether messages were read bypassing the consumer, and it has not moved since.
    pub(super) fn is_bypassed(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(delivered: u64, last_sequence: u64) -> ConsumerState {
        ConsumerState { delivered, last_sequence, ..ConsumerState::default() }
    }

    /// Checks at each of these seconds. Returns the sequences to be read, with the second.
    fn look(
        seconds: impl IntoIterator<Item = (u64, ConsumerState, bool)>,
    ) -> Vec<(u64, RangeInclusive<u64>)> {
        let (began, mut withheld) = (Instant::now(), Withheld::default());
        let looks = seconds.into_iter().filter_map(|(second, state, asking)| {
            let at = began + Duration::from_secs(second);
            withheld.look(&state, asking, at).map(|range| (second, range))
        });
        looks.collect()
    }

    #[test]
    fn a_consumer_at_the_end_of_its_stream_withholds_nothing() {
        assert_eq!(look((0..60).map(|second| (second, state(7, 7), true))), []);
    }

    #[test]
    fn what_is_not_delivered_in_time_is_read_once() {
        let looks = (0..60).map(|second| (second, state(7, 9), true));
        assert_eq!(look(looks), [(5, 8..=9)]);
        // Later messages are read, too, and none twice.
        let looks = (0..60).map(|second| (second, state(7, 9 + second / 20), true));
        assert_eq!(look(looks), [(5, 8..=9), (20, 10..=10), (40, 11..=11)]);
    }

    #[test]
    fn a_consumer_is_bypassed_while_it_stands_before_messages_that_were_read() {
        let (began, mut withheld) = (Instant::now(), Withheld::default());
        let second = |second| began + Duration::from_secs(second);
        for at in 0..=5 {
            withheld.look(&state(7, 9), true, second(at));
        }
        withheld.read(false);
        assert!(!withheld.is_bypassed(), "nothing was there");
        withheld.look(&state(7, 10), true, second(6));
        withheld.read(true);
        assert!(withheld.is_bypassed());
        withheld.look(&state(10, 10), true, second(7));
        assert!(!withheld.is_bypassed());
    }

    #[test]
    fn a_consumer_that_moves_is_only_slow() {
        assert_eq!(look((0..60).map(|second| (second, state(second / 4, 90), true))), []);
    }

    #[test]
    fn nobody_withholds_what_is_not_asked_for() {
        assert_eq!(look((0..60).map(|second| (second, state(7, 9), false))), []);
        // The same if nothing was asked for between two checks.
        assert_eq!(look((0..60).map(|second| (second * 4, state(7, 9), true))), []);
    }
}
