//! The contexts of what waits, by key, in bounded memory.

use std::{collections::HashMap, sync::Arc};

use nudge_protocol::EntityId;
use parking_lot::Mutex;

use super::Context;

/// Most keys whose contexts are certainly kept at a time. Up to twice as many may be: then the older half is forgotten.
pub const MAX_KEYS: usize = 4_096;
/// Most contexts of a key, the oldest forgotten first.
pub const MAX_CONTEXTS_PER_KEY: usize = 4;

/// The contexts of what waits, each with a mark that says when it came. Forgetting one costs spans and nothing else, so what
/// nobody takes need not be found. Cloning is cheap and shares them.
#[derive(Clone, Debug)]
pub struct Kept<M>(Arc<Mutex<Generations<M>>>);

type Keys<M> = HashMap<EntityId, Vec<(Context, M)>>;

#[derive(Debug)]
struct Generations<M> {
    young: Keys<M>,
    old: Keys<M>,
}

impl<M> Default for Kept<M> {
    fn default() -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self(Arc::new(Mutex::new(generations)))
    }
}

impl<M: Copy + Ord> Kept<M> {
    /// Keeps a context of a key.
    pub fn keep(&self, id: &EntityId, context: Context, mark: M) {
        let Generations { young, old } = &mut *self.0.lock();
        let contexts = match young.get_mut(id) {
            Some(contexts) => contexts,
            None => {
                if young.len() >= MAX_KEYS {
                    *old = std::mem::take(young);
                }
                let before = old.remove(id).unwrap_or_default();
                young.entry(id.clone()).or_insert(before)
            }
        };
        // The same message, delivered once more.
        if contexts.iter().any(|(known, _)| *known == context) {
            return;
        }
        if contexts.len() == MAX_CONTEXTS_PER_KEY {
            contexts.remove(0);
        }
        contexts.push((context, mark));
    }

    /// Whether nothing is kept: the usual case, and the cheap one.
    pub fn is_empty(&self) -> bool {
        let kept = self.0.lock();
        kept.young.is_empty() && kept.old.is_empty()
    }

    /// The contexts of a key that came no later than `until`. They stay.
    pub fn get(&self, id: &EntityId, until: M) -> Vec<(Context, M)> {
        let kept = self.0.lock();
        let of_it = kept.young.get(id).or_else(|| kept.old.get(id));
        of_it.into_iter().flatten().copied().filter(|(_, mark)| *mark <= until).collect()
    }

    /// The same, and forgets them.
    pub fn take(&self, id: &EntityId, until: M) -> Vec<(Context, M)> {
        let Generations { young, old } = &mut *self.0.lock();
        let keys = if young.contains_key(id) { young } else { old };
        let Some(contexts) = keys.get_mut(id) else {
            return Vec::new();
        };
        let taken = contexts.extract_if(.., |(_, mark)| *mark <= until).collect();
        if contexts.is_empty() {
            keys.remove(id);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> EntityId {
        EntityId::new(&n.to_string()).unwrap()
    }

    #[test]
    fn what_came_later_stays() {
        let (kept, contexts) = (Kept::default(), [(); 3].map(|()| Context::root()));
        contexts.iter().zip(1..).for_each(|(context, mark)| kept.keep(&id(1), *context, mark));
        assert_eq!(kept.get(&id(1), 1), [(contexts[0], 1)]);
        assert_eq!(kept.take(&id(1), 2), [(contexts[0], 1), (contexts[1], 2)]);
        assert_eq!(kept.take(&id(1), 9), [(contexts[2], 3)]);
        assert!(kept.is_empty() && kept.take(&id(2), 9).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_kept() {
        let kept = Kept::default();
        for n in 0..5 * MAX_KEYS {
            for mark in 0..2 * MAX_CONTEXTS_PER_KEY {
                kept.keep(&id(n), Context::root(), mark);
            }
        }
        let last = kept.get(&id(5 * MAX_KEYS - 1), usize::MAX);
        assert_eq!(last.len(), MAX_CONTEXTS_PER_KEY);
        assert_eq!(last[0].1, MAX_CONTEXTS_PER_KEY, "the newest");
        let all = (0..5 * MAX_KEYS).filter(|n| !kept.get(&id(*n), usize::MAX).is_empty()).count();
        assert!((MAX_KEYS..=2 * MAX_KEYS).contains(&all), "{all} keys");
    }

    #[test]
    fn a_context_that_arrives_twice_is_kept_once() {
        let (kept, context) = (Kept::default(), Context::root());
        (0..3).for_each(|mark| kept.keep(&id(1), context, mark));
        assert_eq!(kept.get(&id(1), 9), [(context, 0)]);
    }
}
