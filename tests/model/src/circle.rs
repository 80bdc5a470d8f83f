//! Checks whether a model can loop forever.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use stateright::Model;

use crate::check::MAX_STATES;

/// A path on which a model could loop forever without faults and edits, if there is one.
///
/// If there is none, the model reaches a state with nothing left to do, whatever is scheduled next; the properties say
/// what holds in such states. Stateright itself does not look for cycles.
pub(crate) fn circle<M>(model: &M, is_progress: fn(&M::Action) -> bool) -> Option<Vec<M::Action>>
where
    M: Model,
    M::State: Hash,
    M::Action: Clone,
{
    // For each visited state, whether it is on the current path.
    let mut on_path = HashMap::new();
    let mut roots = model.init_states();
    let mut path: Vec<Place<M>> = Vec::new();
    while let Some(root) = roots.pop() {
        if on_path.contains_key(&fingerprint(&root)) {
            continue;
        }
        on_path.insert(fingerprint(&root), true);
        path.push(Place::new(model, &root));
        while let Some(place) = path.last_mut() {
            let Some((action, next)) = place.ahead.pop() else {
                on_path.insert(place.state, false);
                path.pop();
                continue;
            };
            if !is_progress(&action) {
                roots.push(next);
                continue;
            }
            place.taken = Some(action);
            let state = fingerprint(&next);
            match on_path.get(&state) {
                Some(false) => {}
                Some(true) => {
                    let round = path.into_iter().skip_while(|place| place.state != state);
                    return Some(round.filter_map(|place| place.taken).collect());
                }
                None => {
                    assert!(on_path.len() < MAX_STATES, "too many states");
                    on_path.insert(state, true);
                    path.push(Place::new(model, &next));
                }
            }
        }
    }
    None
}

/// A state on the path.
struct Place<M: Model> {
    state: u64,
    ahead: Vec<(M::Action, M::State)>,
    taken: Option<M::Action>,
}

impl<M: Model> Place<M>
where
    M::State: Hash,
{
    fn new(model: &M, state: &M::State) -> Self {
        Self { state: fingerprint(state), ahead: model.next_steps(state), taken: None }
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// States by number, and the steps between them.
    struct Graph(&'static [(u8, u8)]);

    impl Model for Graph {
        type State = u8;
        type Action = (u8, u8);

        fn init_states(&self) -> Vec<u8> {
            vec![0]
        }

        fn actions(&self, state: &u8, actions: &mut Vec<(u8, u8)>) {
            actions.extend(self.0.iter().filter(|(from, _)| from == state));
        }

        fn next_state(&self, _: &u8, (_, to): (u8, u8)) -> Option<u8> {
            Some(to)
        }
    }

    #[test]
    fn a_circle_is_found_behind_a_fault_but_not_through_one() {
        let to_9_is_a_fault = |step: &(u8, u8)| step.1 != 9;
        let joined = Graph(&[(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(circle(&joined, to_9_is_a_fault), None);
        let behind = Graph(&[(0, 1), (1, 9), (9, 2), (2, 3), (3, 2)]);
        let mut found = circle(&behind, to_9_is_a_fault).unwrap();
        found.sort_unstable();
        assert_eq!(found, [(2, 3), (3, 2)]);
        let through = Graph(&[(0, 1), (1, 9), (9, 0)]);
        assert_eq!(circle(&through, to_9_is_a_fault), None);
    }
}
