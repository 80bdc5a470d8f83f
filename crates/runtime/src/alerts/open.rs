//! Which conditions hold and were told, and how much may be told now. Pure: `now` is passed in.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use nudge_protocol::{EntityId, EntityName};

use super::What;

/// The time in which at most [`MAX_PER_WINDOW`] messages are sent.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of messages in a [`WINDOW`].
pub const MAX_PER_WINDOW: u32 = 20;
/// Maximum number of conditions that are remembered as told. Further ones are left out.
pub const MAX_OPEN: usize = 10_000;

/// Something that holds or does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) what: What,
    pub(super) entity: EntityName,
    pub(super) id: Option<EntityId>,
}

/// What to do about a condition that was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Tell,
    /// It was told already, or left out.
    Known,
    LeftOut,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Open {
    conditions: HashSet<Condition>,
    window: Option<Instant>,
    sent: u32,
    left_out: u64,
}

impl Open {
    pub(super) fn raise(&mut self, condition: &Condition, now: Instant) -> Verdict {
        if self.conditions.contains(condition) {
            return Verdict::Known;
        }
        let room = self.conditions.len() < MAX_OPEN;
        if room {
            self.conditions.insert(condition.clone());
        }
        if self.window.is_none_or(|began| now >= began + WINDOW) {
            (self.window, self.sent) = (Some(now), 0);
        }
        if self.sent == MAX_PER_WINDOW || !room {
            self.left_out += 1;
            return Verdict::LeftOut;
        }
        self.sent += 1;
        Verdict::Tell
    }

    pub(super) fn clear(&mut self, condition: &Condition) {
        self.conditions.remove(condition);
    }

    pub(super) fn clear_all(&mut self, what: What, entity: &EntityName) {
        self.conditions.retain(|one| one.what != what || one.entity != *entity);
    }

    /// How many were left out since the last answer.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: usize) -> Condition {
        let id = Some(EntityId::new(&id.to_string()).unwrap());
        Condition { what: What::DeadLetter, entity: EntityName::new("store").unwrap(), id }
    }

    #[test]
    fn a_condition_is_told_once_until_it_has_ended() {
        let (mut open, now) = (Open::default(), Instant::now());
        assert_eq!(open.raise(&of(1), now), Verdict::Tell);
        assert_eq!(open.raise(&of(1), now + WINDOW * 9), Verdict::Known);
        assert_eq!(open.raise(&of(2), now), Verdict::Tell, "another ID");
        open.clear(&of(1));
        assert_eq!(open.raise(&of(1), now), Verdict::Tell);
        assert_eq!(open.raise(&of(2), now), Verdict::Known, "only that one has ended");
        open.clear_all(What::BreakerOpen, &of(1).entity);
        assert_eq!(open.raise(&of(1), now), Verdict::Known);
        open.clear_all(What::DeadLetter, &of(1).entity);
        assert_eq!(open.raise(&of(1), now), Verdict::Tell);
    }

    #[test]
    fn what_is_too_much_for_a_minute_is_counted() {
        let (mut open, now) = (Open::default(), Instant::now());
        let verdicts: Vec<_> = (0..100).map(|id| open.raise(&of(id), now)).collect();
        let told = verdicts.iter().filter(|verdict| **verdict == Verdict::Tell).count();
        assert_eq!((told, open.take_left_out()), (MAX_PER_WINDOW as usize, 80));
        assert_eq!(open.take_left_out(), 0);
        // What was left out is not told later, either: it is part of the count.
        assert_eq!(open.raise(&of(99), now + WINDOW), Verdict::Known);
        assert_eq!(open.raise(&of(100), now + WINDOW), Verdict::Tell);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut open, now) = (Open::default(), Instant::now());
        for id in 0..MAX_OPEN {
            open.raise(&of(id), now);
        }
        open.take_left_out();
        let later = now + WINDOW;
        assert_eq!(open.raise(&of(MAX_OPEN), later), Verdict::LeftOut);
        assert_eq!((open.conditions.len(), open.take_left_out()), (MAX_OPEN, 1));
    }
}
