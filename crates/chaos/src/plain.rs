//! Database work of the simulation itself, which no crash disturbs.

use std::{cell::RefCell, sync::Arc};

use nudge_runtime::{
    Database,
    database::{Durability, Stepper},
};
use tokio::runtime::{Handle, Runtime};

use crate::world::World;

thread_local! {
    /// Drives database work while the simulated world stands still.
    static HELPER: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// The handle of this thread's helper runtime.
pub(crate) fn helper() -> Handle {
    HELPER.with_borrow_mut(|helper| {
        let build = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().expect("a runtime")
        };
        helper.get_or_insert_with(build).handle().clone()
    })
}

/// Drives database work of the simulation itself.
pub(crate) struct Plain {
    pub(crate) runtime: Handle,
    pub(crate) world: Arc<World>,
}

impl Stepper for Plain {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn begins(&self) {
        self.world.stand_still();
    }

    fn ends(&self, _: bool) {
        self.world.go_on();
    }
}

/// An empty database in memory.
pub(crate) async fn database(runtime: &Handle) -> Database {
    let opened = Database::open("sqlite::memory:", Durability::Refillable);
    let opened = std::thread::scope(|scope| {
        scope.spawn(|| runtime.block_on(opened)).join().expect("no panic")
    });
    opened.expect("a database in memory opens")
}
