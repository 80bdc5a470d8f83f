//! Entities that cannot be applied for a while.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use nudge_runtime::{BoxError, Tx};
use nudge_subscriber_kit::{Apply, EntityState};

use crate::world::lock;

/// The service's own `apply`, which fails for what is poisoned.
pub(crate) struct Poisoned<H> {
    pub(crate) handler: H,
    /// Which they are.
    pub(crate) poison: Arc<Mutex<BTreeSet<String>>>,
}

impl<H: Apply> Apply for Poisoned<H> {
    type State = H::State;
    const FIELDS: &'static [&'static str] = H::FIELDS;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<H::State>]) -> Result<(), BoxError> {
        let poisoned = {
            let poison = lock(&self.poison);
            entities.iter().find(|entity| poison.contains(entity.id.as_str())).map(|e| e.id.clone())
        };
        match poisoned {
            Some(id) => Err(format!("{id} is poisoned").into()),
            None => self.handler.apply(tx, entities).await,
        }
    }
}
