//! Who is told of what is published, and who gets it past the backlog.

use std::sync::{Arc, Mutex, Weak};

use nudge_runtime::BoxError;
use nudge_subscriber_kit::source::Delivery;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{broker::Stored, consumer::delivery, fault::Fault, node::Node, world::lock};

/// Where deliveries go.
pub(crate) type Sender = mpsc::Sender<Result<Delivery, BoxError>>;

/// Everyone who wants to know of what is published.
#[derive(Default)]
pub(crate) struct Published {
    /// Wakes whoever waits for messages.
    pub(crate) woken: Notify,
    /// Those who want it past their consumer.
    fresh: Mutex<Vec<(Weak<Node>, Sender)>>,
}

impl Published {
    /// Somebody wants what is published from now on.
    pub(crate) fn follow(&self, node: &Arc<Node>, sender: Sender) {
        lock(&self.fresh).push((Arc::downgrade(node), sender));
    }

    /// A message is stored.
    pub(crate) fn tell(&self, stored: &Stored) {
        self.woken.notify_waiters();
        let mut fresh = lock(&self.fresh);
        fresh.retain(|(node, sender)| !sender.is_closed() && node.strong_count() > 0);
        let nodes = fresh.iter().filter_map(|(node, sender)| Some((node.upgrade()?, sender)));
        let linked: Vec<_> = nodes.filter(|(node, _)| node.has_link() && !node.is_dead()).collect();
        let Some((first, _)) = linked.first() else { return };
        // One of the group gets it.
        let (node, sender) = linked[first.any_of(linked.len())].clone();
        if node.world.strikes(Fault::DropDelivery) {
            return;
        }
        let (sender, stored, way) = (sender.clone(), stored.clone(), node.way());
        tokio::spawn(async move {
            sleep(way).await;
            if node.has_link() && !node.is_dead() {
                node.world.note(Fault::FreshDelivery);
                node.heard_of(&stored, "past the backlog");
                let _ = sender.send(Ok(delivery(0, stored, 0))).await;
            }
        });
    }
}
