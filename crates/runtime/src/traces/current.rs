//! The span that the code which runs right now belongs to, and what it changed.

use std::{future::Future, sync::Arc};

use nudge_protocol::{EntityId, EntityName, Timestamp, Version};
use parking_lot::Mutex;

use super::Context;
use crate::clock;

/// Most changes of one transaction that are noted for its trace.
pub const MAX_NOTED_CHANGES: usize = 128;

#[derive(Clone)]
struct Current {
    context: Context,
    since: Timestamp,
    /// What was changed and not yet committed.
    changes: Arc<Mutex<Vec<(EntityName, EntityId, Version)>>>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Awaits `work` as a part of this span, if there is one. Tasks that it spawns are not.
pub async fn within<T>(context: Option<Context>, work: impl Future<Output = T>) -> T {
    match context {
        Some(context) => {
            let current = Current { context, since: clock::now(), changes: Arc::default() };
            CURRENT.scope(current, work).await
        }
        None => work.await,
    }
}

/// The span that the caller is part of. `None` if it is not recorded.
pub fn current() -> Option<Context> {
    CURRENT.try_with(|current| current.context).ok()
}

/// Notes the version of an entity that the caller's transaction may have changed, until [`noted`] returns it. A version is a
/// time: one from before the caller's span was only read.
pub fn note(entity: &EntityName, id: &EntityId, version: Version) {
    let _ = CURRENT.try_with(|current| {
        if (version.get() as i64) < current.since.unix_micros() {
            return;
        }
        let mut changes = current.changes.lock();
        // An earlier attempt may have been rolled back.
        changes.retain(|(other, known, _)| other != entity || known != id);
        if changes.len() < MAX_NOTED_CHANGES {
            changes.push((entity.clone(), id.clone(), version));
        }
    });
}

/// The caller's span, and what was noted of this kind of entity since the last call.
pub fn noted(entity: &EntityName) -> Option<(Context, Vec<(EntityId, Version)>)> {
    let take = |current: &Current| {
        let mut changes = current.changes.lock();
        let of_it = changes.extract_if(.., |(other, ..)| other == entity);
        let of_it = of_it.map(|(_, id, version)| (id, version)).collect();
        (current.context, of_it)
    };
    CURRENT.try_with(take).ok()
}
