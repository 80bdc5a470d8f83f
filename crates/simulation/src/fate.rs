//! What can happen in a service's `apply`: entities that cannot be applied for a while, and a program that
//! crashes there.

use std::sync::Arc;

use nudge_protocol::EntityId;
use nudge_runtime::{BoxError, Tx, problem::chain};
use parking_lot::Mutex;

use crate::{
    fault::Fault,
    mutant::apply::WrongApply,
    node::Node,
    read_model::ReadModel,
    service::{Boxed, Fate},
};

/// What can happen in a program's `apply`.
pub(crate) struct Befalls {
    pub(crate) node: Arc<Node>,
    pub(crate) read_model: Arc<ReadModel>,
    /// A fault that is planted there.
    pub(crate) wrong: WrongApply,
    /// The program crashes at the end of this `apply`. There is one at a time.
    pub(crate) crashes_after: Mutex<bool>,
}

impl Fate for Befalls {
    fn before<'a>(
        &'a self,
        tx: &'a mut Tx,
        entities: &'a [(EntityId, u64)],
    ) -> Boxed<'a, Result<Vec<usize>, BoxError>> {
        Box::pin(async move {
            let given = self.wrong.before(tx, self.read_model.service.entity(), entities).await?;
            for place in &given {
                let (id, version) = &entities[*place];
                self.read_model.handed_over(id, *version);
            }
            let world = &self.node.world;
            let crash = world.strikes(Fault::CrashInApply);
            if crash && world.pick(Fault::CrashInApply, 2) == 0 {
                self.crash().await;
            }
            *self.crashes_after.lock() = crash;
            let poison = self.read_model.followed.poison.lock();
            match entities.iter().find(|(id, _)| poison.contains(id.as_str())) {
                Some((id, _)) => Err(format!("{id} is poisoned").into()),
                None => Ok(given),
            }
        })
    }

    fn failed(&self, why: &BoxError) {
        let world = &self.node.world;
        world.tell(format!("{} fails in its apply: {}", self.node.name, chain(&**why)));
    }

    fn may_read(&self) -> bool {
        self.wrong.may_read()
    }

    fn after(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            if std::mem::take(&mut *self.crashes_after.lock()) {
                self.crash().await;
            }
        })
    }
}

impl Befalls {
    /// The driver of the transaction sees that, and drops it.
    async fn crash(&self) {
        self.node.crash("in its apply, and the transaction is rolled back");
        std::future::pending().await
    }
}
