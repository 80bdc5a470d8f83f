//! The simulated ports alone, to test the contract that they share with the real ones.

use std::{sync::Arc, time::Duration};

use nudge_protocol::EntityName;
use nudge_publisher::{Publisher, RelayHealth, sink::Sink};
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::{owner_client::OwnerClient, source::Source};
use serde_json::Value;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker,
    fault::Fault,
    followed::Followed,
    link::Link,
    node::{Node, Role},
    owner::{Changes, Owner, client::Client},
    plain::{Plain, database, helper},
    plan::Plan,
    profile::Profile,
    world::World,
};

/// A program to which nothing happens but ordinary delays.
fn benign(seed: u64) -> Arc<Node> {
    let world = World::new(Plan::new(Profile::Benign, seed));
    Node::new("contract", (0, 1), Role::Subscriber, world, Handle::current())
}

/// A database for work during which this world's time stands still.
async fn database_of(world: &Arc<World>) -> Database {
    let plain = Plain { runtime: helper(), world: world.clone() };
    database(&plain.runtime).await.with_driver(Driver::Stepped(Arc::new(plain)))
}

/// A simulated broker with only ordinary delays, and both ports to it.
pub struct SimulatedBroker {
    world: Arc<World>,
    link: Link,
}

impl SimulatedBroker {
    /// For use on a runtime whose clock is paused.
    pub fn new(seed: u64) -> Self {
        let node = benign(seed);
        let world = node.world.clone();
        let link = Link { node, contents: None, channels: Arc::default() };
        Self { world, link }
    }

    /// An empty database in memory, for a subscriber.
    pub async fn database(&self) -> Database {
        database_of(&self.world).await
    }

    /// The publishing side.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.link.clone())
    }

    /// The consuming side.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.link.clone())
    }

    /// Deletes every stream, with its consumers.
    pub fn delete_stream(&self) {
        let channels = self.link.channels.all();
        channels.iter().for_each(|channel| channel.with_broker(Broker::delete_stream));
    }

    /// Cuts the connection for a moment.
    pub fn reconnect(&self) {
        self.link.node.cut(Duration::from_millis(50));
    }
}

/// A simulated owner with only requested faults, and the port to it.
pub struct SimulatedOwner {
    node: Arc<Node>,
    owner: Arc<Owner>,
    client: Arc<Client>,
}

impl SimulatedOwner {
    /// For use on a runtime whose clock is paused.
    pub async fn new(seed: u64, entity: &EntityName) -> Self {
        let node = benign(seed);
        let db = database_of(&node.world).await;
        let owner = Owner::open(&node.world, db, vec![entity.clone()], (false, false)).await;
        let api = owner.api(&owner.entities[0]);
        let followed = Followed::new(owner.entities[0].history.clone());
        let (of, by) = (owner.clone(), node.clone());
        let client = Arc::new(Client { node: by, owner: of, api, followed });
        Self { node, owner, client }
    }

    /// Its database, for what happens behind its back.
    pub fn db(&self) -> &Database {
        &self.owner.db
    }

    /// The way to it.
    pub fn client(&self) -> Arc<dyn OwnerClient> {
        self.client.clone()
    }

    fn publisher(&self) -> &Publisher {
        &self.owner.entities[0].publisher
    }

    /// Publishes what changes to `sink`, until `stop`.
    pub fn spawn_relay_to(&self, sink: Arc<dyn Sink>, stop: CancellationToken) -> JoinHandle<()> {
        self.publisher().spawn_relay_to(sink, stop)
    }

    /// The health of its relay.
    pub fn health(&self) -> RelayHealth {
        self.publisher().health()
    }

    /// What the next call that it can happen to meets.
    pub fn goes_wrong(&self, fault: Fault) {
        self.node.world.force(fault);
    }

    /// Changes or deletes entities in one transaction.
    pub async fn write(&self, changes: impl IntoIterator<Item = (String, Option<Value>)>) {
        let changes = changes.into_iter().map(|(id, state)| ((0, id), state));
        let changes = Changes::from_iter(changes);
        let written = self.owner.db.run(self.owner.write(&changes, None)).await;
        let versions = written.expect("the owner's database works").expect("nothing ends it");
        for (((at, id), state), version) in changes.into_iter().zip(versions) {
            self.owner.entities[at].history.note(&id, version, state);
        }
    }
}
