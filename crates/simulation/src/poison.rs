//! What befalls a service's `apply`: entities that cannot be applied for a while, and a program that ends
//! there.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use nudge_runtime::{BoxError, Tx};
use nudge_subscriber_kit::{Apply, EntityState};

use crate::{check::ReadModel, fault::Fault, node::Node, world::lock};

/// What a program's `apply` meets.
pub(crate) struct Fate {
    /// What cannot be applied.
    pub(crate) poison: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) node: Arc<Node>,
    pub(crate) read_model: Arc<ReadModel>,
}

/// The service's own `apply`, which meets that.
pub(crate) struct Poisoned<H> {
    pub(crate) handler: H,
    pub(crate) fate: Fate,
}

impl<H: Apply> Apply for Poisoned<H> {
    type State = H::State;
    const FIELDS: &'static [&'static str] = H::FIELDS;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<H::State>]) -> Result<(), BoxError> {
        let Fate { poison, node, read_model } = &self.fate;
        for entity in entities {
            read_model.handed_over(&entity.id, entity.version.get());
        }
        let world = &node.world;
        let crash = world.strikes(Fault::CrashInApply);
        let before = crash && world.pick(Fault::CrashInApply, 2) == 0;
        if before {
            self.fate.crash().await;
        }
        let poisoned = {
            let poison = lock(poison);
            entities.iter().find(|entity| poison.contains(entity.id.as_str())).map(|e| e.id.clone())
        };
        if let Some(id) = poisoned {
            return Err(format!("{id} is poisoned").into());
        }
        self.handler.apply(tx, entities).await?;
        if crash {
            self.fate.crash().await;
        }
        Ok(())
    }
}

impl Fate {
    /// Whoever drives the transaction sees that, and gives it up.
    async fn crash(&self) {
        self.node.crash("in its apply, and the transaction is rolled back");
        std::future::pending().await
    }
}
