//! What happens to each key, as a stream of events for people who watch.

use std::sync::Arc;

use nudge_protocol::{EntityId, EntityName, Timestamp, Version};
use nudge_runtime::clock;
use serde::Serialize;
use tokio::sync::broadcast;

/// Events kept for a watcher that reads slowly; beyond, the oldest are dropped for that watcher.
const MAX_WAITING_EVENTS: usize = 4_096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventKind {
    /// A notification came in.
    Received,
    /// A message came in that is not as it should be; its key is looked at all the same.
    Malformed,
    /// The owner answered.
    Fetched,
    /// The state is committed in the read model.
    Applied,
    /// The read model had this version or a later one already.
    Ignored,
    /// The key is tried again later.
    Retried,
    /// The key failed in a way that a retry alone does not mend.
    DeadLettered,
}

/// One event of one key.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: EventKind,
    /// The kind of entity.
    pub(crate) entity: EntityName,
    /// Which one.
    pub(crate) id: EntityId,
    /// The version in question, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<Version>,
    /// Seconds from the owner's commit to this event, where both are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag_seconds: Option<f64>,
    /// Whether the entity is deleted, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<bool>,
    /// When it happened.
    pub(crate) at: Timestamp,
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl Event {
    /// An event of this moment.
    pub(crate) fn now(kind: EventKind, entity: &EntityName, id: &EntityId) -> Self {
        let (entity, id, at) = (entity.clone(), id.clone(), clock::now());
        Self { kind, entity, id, version: None, lag_seconds: None, deleted: None, at, detail: None }
    }
}

/// Where events are sent. Costs next to nothing while nobody watches.
#[derive(Clone, Debug)]
pub(crate) struct Events(broadcast::Sender<Arc<Event>>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(MAX_WAITING_EVENTS))
    }

    /// Sends the event that `make` builds, if anybody watches.
    pub(crate) fn emit(&self, make: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // An error means that the last watcher just left.
            let _ = self.0.send(Arc::new(make()));
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}
