//! The simulated ports by themselves, for the contract that they share with the real ones.

use std::sync::Arc;

use nudge_protocol::EntityId;
use nudge_publisher::sink::{Message, Sink};
use nudge_subscriber_kit::source::Source;
use tokio::runtime::Handle;

use crate::{
    check::Checker,
    link::Link,
    node::{Node, Role},
    profile::Profile,
    world::{Plan, World},
};

struct Nothing;

impl Checker for Nothing {
    fn on_the_wire(&self, _: &Message) {}
    fn acknowledged(&self, _: &EntityId, _: Option<u64>, _: u64) {}
    fn handed_over(&self, _: &EntityId, _: u64) {}
}

/// A simulated broker on which nothing goes wrong but ordinary delays, and both ways to it.
pub struct SimulatedBroker {
    world: Arc<World>,
    link: Link,
}

impl SimulatedBroker {
    /// For use on a runtime whose clock is paused.
    pub fn new(seed: u64) -> Self {
        let plan = Plan { profile: Profile::Benign, seed, allowed: None };
        let world = World::new(plan);
        let role = Role::Subscriber;
        let node = Node::new("contract".to_owned(), role, world.clone(), Handle::current());
        let link = Link { node, checker: Arc::new(Nothing), published: Arc::default() };
        Self { world, link }
    }

    /// The publishing side.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.link.clone())
    }

    /// The consuming side.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.link.clone())
    }

    /// Deletes the stream, with its consumers.
    pub fn delete_stream(&self) {
        self.world.with_broker(crate::broker::Broker::delete_stream);
    }
}
