//! One stream of the broker, and who waits for what is published there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use nudge_protocol::EntityName;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::delivery::{Sender, delivery};
use crate::{
    broker::{Broker, Stored},
    fault::Fault,
    node::Node,
};

/// The stream of one entity, and its subscribers.
#[derive(Default)]
pub(crate) struct Channel {
    broker: Mutex<Broker>,
    /// Wakes those who wait for messages.
    pub(crate) woken: Notify,
    /// Subscribers that get what is published directly instead of through their consumer.
    fresh: Mutex<Vec<(Weak<Node>, Sender)>>,
}

/// The channel of each entity, made when it is first asked for.
#[derive(Default)]
pub(crate) struct Channels(Mutex<BTreeMap<String, Arc<Channel>>>);

impl Channels {
    pub(crate) fn of(&self, entity: &EntityName) -> Arc<Channel> {
        self.0.lock().entry(entity.as_str().to_owned()).or_default().clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Channel>> {
        self.0.lock().values().cloned().collect()
    }
}

impl Channel {
    /// The state of the stream.
    pub(crate) fn with_broker<T>(&self, work: impl FnOnce(&mut Broker) -> T) -> T {
        work(&mut self.broker.lock())
    }

    /// Subscribes to what is published from now on.
    pub(crate) fn follow(&self, node: &Arc<Node>, sender: Sender) {
        self.fresh.lock().push((Arc::downgrade(node), sender));
    }

    /// A message is stored. One program of each service gets it.
    pub(crate) fn tell(&self, stored: &Stored) {
        self.woken.notify_waiters();
        let mut groups: BTreeMap<String, Vec<(Arc<Node>, Sender)>> = BTreeMap::new();
        self.fresh.lock().retain(|(node, sender)| {
            let node = node.upgrade().filter(|_| !sender.is_closed());
            if let Some(node) = &node
                && node.has_link()
                && !node.is_dead()
            {
                groups.entry(node.of.clone()).or_default().push((node.clone(), sender.clone()));
            }
            node.is_some()
        });
        for group in groups.values() {
            let (node, sender) = &group[group[0].0.any_of(group.len())];
            send(node.clone(), sender.clone(), stored.clone());
        }
    }
}

fn send(node: Arc<Node>, sender: Sender, stored: Stored) {
    if node.world.strikes(Fault::DropDelivery) {
        return;
    }
    let way = node.way();
    tokio::spawn(async move {
        sleep(way).await;
        if node.has_link() && !node.is_dead() {
            node.world.note(Fault::FreshDelivery);
            node.heard_of(&stored, "past the backlog");
            let _ = sender.send(Ok(delivery(0, stored, 0))).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{node::Role, plain::helper, plan::Plan, profile::Profile, world::World};

    #[tokio::test(start_paused = true)]
    async fn of_each_service_one_program_gets_what_is_published() {
        let world = World::new(Plan::new(Profile::Benign, 0));
        let channel = Channel::default();
        let mut programs = Vec::new();
        for (of, replica) in [("search", 0), ("search", 1), ("search", 2), ("review", 0)] {
            let node = Node::new(of, (replica, 1), Role::Subscriber, world.clone(), helper());
            let (sender, receiver) = mpsc::channel(8);
            channel.follow(&node, sender);
            programs.push((node, receiver));
        }
        let stored = Stored { subject: "changes.a.b".into(), version: None, body: Bytes::new() };
        (0..4).for_each(|_| channel.tell(&stored));
        sleep(std::time::Duration::from_secs(60)).await;
        let got: Vec<_> = programs.iter().map(|(_, receiver)| receiver.len()).collect();
        assert_eq!(got[3], 4, "review has one program, which gets all of it: {got:?}");
        assert_eq!(got[..3].iter().sum::<usize>(), 4, "search's share it: {got:?}");
    }
}
