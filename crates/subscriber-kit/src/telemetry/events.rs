//! What happens to each key, as a stream of events for those who watch.

use std::sync::Arc;

use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::clock;
use tokio::sync::broadcast;

pub(crate) use nudge_protocol::admin::{Event, EventKind};

/// Events kept for a watcher that reads slowly; beyond that, its oldest events are dropped.
const MAX_WAITING_EVENTS: usize = 4_096;

/// An event that happens now.
pub(crate) fn event(kind: EventKind, entity: &EntityName, id: &EntityId) -> Event {
    Event::new(kind, entity, id, clock::now())
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
            // An error means that the last watcher has just left.
            let _ = self.0.send(Arc::new(make()));
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}
