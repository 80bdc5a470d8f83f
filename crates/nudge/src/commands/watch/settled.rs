//! Which changes have been told whole: what comes later about them is nothing new.
//!
//! A state is often applied before its own notification has arrived, because the callback for an
//! older one answered with it already. The notification then comes to a row that has left.

use std::collections::{HashMap, VecDeque};

use nudge_protocol::Version;

use super::row::Key;

/// Most entities that are remembered; the oldest are forgotten first.
const MAX_KEYS: usize = 20_000;

/// The newest settled version of each entity.
#[derive(Debug, Default)]
pub(super) struct Settled {
    versions: HashMap<Key, Version>,
    order: VecDeque<Key>,
}

impl Settled {
    /// Notes that this version was told whole.
    pub(super) fn note(&mut self, key: &Key, version: Version) {
        match self.versions.get_mut(key) {
            Some(known) => *known = version.max(*known),
            None => {
                self.versions.insert(key.clone(), version);
                self.order.push_back(key.clone());
            }
        }
        if self.order.len() > MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.versions.remove(&oldest);
        }
    }

    /// Whether this version, or a later one, was told whole.
    pub(super) fn covers(&self, key: &Key, version: Version) -> bool {
        self.versions.get(key).is_some_and(|settled| *settled >= version)
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::{EntityId, EntityName};

    use super::*;

    fn key(id: usize) -> Key {
        (EntityName::new("store").unwrap(), EntityId::new(&id.to_string()).unwrap())
    }

    #[test]
    fn only_what_is_not_newer_is_covered() {
        let mut settled = Settled::default();
        let version = |number| Version::new(number).unwrap();
        settled.note(&key(1), version(7));
        settled.note(&key(1), version(6));
        assert!(settled.covers(&key(1), version(7)) && settled.covers(&key(1), version(5)));
        assert!(!settled.covers(&key(1), version(8)) && !settled.covers(&key(2), version(1)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut settled = Settled::default();
        for id in 0..MAX_KEYS + 10 {
            settled.note(&key(id), Version::NONE);
        }
        assert_eq!((settled.versions.len(), settled.order.len()), (MAX_KEYS, MAX_KEYS));
        assert!(!settled.covers(&key(9), Version::NONE) && settled.covers(&key(10), Version::NONE));
    }
}
