//! Database work of the simulation itself, which no crash disturbs.

use std::{cell::RefCell, sync::Arc};

use nudge_runtime::{
    Database,
    database::{Durability, Stepper},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::world::World;

thread_local! {
    /// Drives database work while the simulated world stands still; and what ends it with this thread.
    static HELPER: RefCell<Option<(Handle, oneshot::Sender<()>)>> = const { RefCell::new(None) };
}

/// The handle of this thread's helper runtime.
pub(crate) fn helper() -> Handle {
    HELPER.with_borrow_mut(|helper| helper.get_or_insert_with(start).0.clone())
}

/// One thread is all it takes, and the fewer there are to wake, the more seeds a second.
fn start() -> (Handle, oneshot::Sender<()>) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (handle, (end, ended)) = (runtime.handle().clone(), oneshot::channel());
    std::thread::spawn(move || runtime.block_on(ended));
    (handle, end)
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
