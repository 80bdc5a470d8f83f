//! Keys that the owner answered recently. Asking for one of them again tells an owner that fails for everything
//! from one that fails for some key.

use std::collections::VecDeque;

use nudge_protocol::EntityId;

/// Maximum number of keys remembered.
pub(crate) const MAX_WITNESSES: usize = 8;

/// See the module documentation. Newest first.
#[derive(Debug, Default)]
pub(crate) struct Witnesses(VecDeque<EntityId>);

impl Witnesses {
    /// Notes that the owner answered these keys.
    pub(crate) fn answered<'a>(&mut self, ids: impl Iterator<Item = &'a EntityId>) {
        for id in ids.take(MAX_WITNESSES) {
            self.0.retain(|known| known != id);
            self.0.push_front(id.clone());
        }
        self.0.truncate(MAX_WITNESSES);
    }

    /// Removes and returns a key that is not one of `not`. It is remembered again only once it is answered, so a key
    /// that has begun to fail cannot count against the owner twice.
    pub(crate) fn take(&mut self, not: &[EntityId]) -> Option<EntityId> {
        let at = self.0.iter().position(|id| !not.contains(id))?;
        self.0.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<usize>) -> Vec<EntityId> {
        range.map(|n| EntityId::new(&n.to_string()).unwrap()).collect()
    }

    #[test]
    fn a_witness_is_another_key_that_was_answered_and_is_taken_once() {
        let mut witnesses = Witnesses::default();
        assert_eq!(witnesses.take(&[]), None);
        witnesses.answered(ids(0..3).iter());
        let mut taken = Vec::from_iter(std::iter::from_fn(|| witnesses.take(&ids(1..2))));
        taken.sort();
        assert_eq!(taken, [ids(0..1), ids(2..3)].concat());
        assert_eq!(witnesses.take(&[]), ids(1..2).pop());
    }

    #[test]
    fn the_newest_few_are_remembered_once_each() {
        let mut witnesses = Witnesses::default();
        witnesses.answered(ids(0..MAX_WITNESSES).iter());
        witnesses.answered(ids(1..2).iter());
        witnesses.answered(ids(100..101).iter());
        assert_eq!(witnesses.0.len(), MAX_WITNESSES);
        assert_eq!(witnesses.take(&[]), ids(100..101).pop());
        assert_eq!(witnesses.take(&[]), ids(1..2).pop());
        assert!(!witnesses.0.contains(&ids(1..2)[0]) && !witnesses.0.contains(&ids(0..1)[0]));
    }
}
