//! What a batch of imported stores changes.

use std::collections::HashMap;

use nudge_protocol::EntityId;

use super::Store;

/// The result of comparing a batch: the stores to write, and how its lines are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stores that do not exist yet, or no longer.
    pub create: Vec<Store>,
    /// Stores that exist with another state.
    pub update: Vec<Store>,
    /// Lines that change nothing: the store has this state already, or a later line of the batch
    /// overrides it. So `created + updated` is the exact number of changes made.
    pub unchanged: u64,
}

/// Compares a batch with the existing stores. Of lines with the same ID the last one counts.
pub fn plan(batch: Vec<Store>, current: &HashMap<EntityId, Store>) -> Plan {
    let lines = batch.len();
    let last: HashMap<EntityId, usize> =
        batch.iter().enumerate().map(|(line, store)| (store.id.clone(), line)).collect();
    let mut plan = Plan::default();
    for (line, store) in batch.into_iter().enumerate() {
        if last.get(&store.id) != Some(&line) {
            continue;
        }
        match current.get(&store.id) {
            None => plan.create.push(store),
            Some(current) if *current != store => plan.update.push(store),
            Some(_) => {}
        }
    }
    plan.unchanged = (lines - plan.create.len() - plan.update.len()) as u64;
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::GivenId;

    fn store(id: u8, name: u8) -> Store {
        let json = json!({"id": id.to_string(), "name": name.to_string()});
        Store::read(&json, GivenId::InBody).unwrap()
    }

    fn by_id(stores: impl IntoIterator<Item = Store>) -> HashMap<EntityId, Store> {
        stores.into_iter().map(|store| (store.id.clone(), store)).collect()
    }

    #[test]
    fn the_last_line_of_an_id_counts() {
        let current = by_id([store(1, 1), store(2, 1)]);
        let plan =
            plan(vec![store(1, 9), store(3, 1), store(1, 1), store(2, 2), store(3, 5)], &current);
        assert_eq!(
            plan,
            Plan { create: vec![store(3, 5)], update: vec![store(2, 2)], unchanged: 3 }
        );
    }

    proptest! {
        /// However a file falls into batches, the stores end up as the last lines say, every line
        /// is accounted for, and the same file again changes nothing where its ids are distinct.
        #[test]
        fn batches_do_not_matter(
            lines in proptest::collection::vec((0u8..12, 0u8..3), 0..40),
            size in 1usize..10,
        ) {
            let lines: Vec<_> = lines.into_iter().map(|(id, name)| store(id, name)).collect();
            let mut current = HashMap::new();
            let mut accounted = 0;
            for batch in lines.chunks(size) {
                let plan = plan(batch.to_vec(), &current);
                accounted += plan.unchanged as usize + plan.create.len() + plan.update.len();
                current.extend(by_id(plan.create.into_iter().chain(plan.update)));
            }
            prop_assert_eq!(accounted, lines.len());
            prop_assert_eq!(&current, &by_id(lines));
            let again = plan(current.values().cloned().collect(), &current);
            prop_assert_eq!(again.unchanged as usize, current.len());
        }
    }
}
