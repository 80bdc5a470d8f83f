//! Everyone in a run, and what they do: programs start, crash, and restart; the owner edits.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use nudge_protocol::{EntityId, EntityName, subject};
use nudge_publisher::Publisher;
use nudge_runtime::database::Driver;
use nudge_subscriber_kit::Settings;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    cast::Cast,
    contents::Contents,
    fault::Fault,
    follower::Follower,
    history::History,
    link::{Link, channel::Channels},
    mutant::{
        self,
        tables::{Table, plant},
    },
    node::{Node, Role},
    owner::{Changes, Owned, Owner, client::Client},
    plain::{Plain, database},
    plan::IDS,
    profile::Profile,
    read_model::ReadModel,
    world::World,
};

/// Longest time until a crashed program is restarted.
const MAX_DOWN: Duration = Duration::from_secs(4);
/// The time until redelivery, in some runs.
const SHORT_ACK_WAIT: Duration = Duration::from_secs(6);
/// How often contents are compared.
const CONTENTS_INTERVAL: Duration = Duration::from_secs(8);
/// How far clocks jump, in microseconds.
const MAX_SKEW_MICROS: u64 = 3_600_000_000;

/// A program, by what it runs.
#[derive(Clone)]
pub(crate) enum Program {
    /// The relays of an owner.
    Relay(Arc<Owner>),
    Subscriber(Arc<Follower>),
}

/// Everyone in a run.
pub(crate) struct Theatre {
    pub(crate) world: Arc<World>,
    /// Replicas of each service, and relays.
    pub(crate) replicas: usize,
    helper: Handle,
    pub(crate) owners: Vec<Arc<Owner>>,
    pub(crate) followers: Vec<Arc<Follower>>,
    pub(crate) channels: Arc<Channels>,
    /// Each program as last started, by its service and number.
    pub(crate) nodes: Mutex<BTreeMap<(String, usize), Arc<Node>>>,
    settings: Settings,
    /// Whether it is the databases that may permanently lose something in this run. If the broker did, too,
    /// nothing would be left that knows about it.
    pub(crate) databases_lose: bool,
    /// Entities that cannot be applied no longer heal by themselves.
    pub(crate) poison_stays: AtomicBool,
    pub(crate) stop: CancellationToken,
}

impl Theatre {
    pub(crate) async fn open(cast: &Cast, world: Arc<World>, helper: Handle) -> Arc<Self> {
        let plain = Arc::new(Plain { runtime: helper.clone(), world: world.clone() });
        let owners = owners(cast, &plain).await;
        let entities = || owners.iter().flat_map(|owner| &owner.entities);
        let history_of = |entity: &str| -> Arc<History> {
            let mut entities = entities().filter(|owned| owned.entity.as_str() == entity);
            entities.next().expect("an owner").history.clone()
        };
        let mut followers = Vec::new();
        for member in &cast.members {
            let several = cast.members.len() > 1;
            let follower = Follower::open(member, several, history_of, plain.clone()).await;
            followers.push(Arc::new(follower));
        }
        let mut read_models = followers.iter().flat_map(|follower| &follower.contents.read_models);
        if !read_models.any(|read_model| read_model.can_be_read) {
            world.rule_out(Fault::RowEdited);
        }
        let settings = settings(&world);
        let broker_loses = world.may(Fault::Rollback) || world.may(Fault::StreamLoss);
        let databases_lose = world.below(2) == 0 || !broker_loses;
        Arc::new(Self {
            replicas: cast.replicas_in(world.profile()),
            world,
            helper,
            owners,
            followers,
            channels: Arc::default(),
            nodes: Mutex::default(),
            settings,
            databases_lose,
            poison_stays: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    /// Starts a program, and restarts it whenever it crashes.
    pub(crate) async fn keep_running(self: Arc<Self>, program: Program, replica: usize) {
        let world = &self.world;
        let (of, role) = match &program {
            Program::Relay(owner) => (&owner.relay, Role::Relay),
            Program::Subscriber(follower) => (&follower.name, Role::Subscriber),
        };
        let mut random = world.random_of(&format!("{of}-{replica}"));
        for life in 1.. {
            sleep(random.up_to(Duration::from_millis(500))).await;
            let node = Node::new(of, (replica, life), role, world.clone(), self.helper.clone());
            world.tell(format!("{} starts", node.name));
            self.nodes.lock().insert((of.clone(), replica), node.clone());
            match program.clone() {
                Program::Relay(owner) => {
                    tokio::spawn(self.clone().relay(owner, node.clone()));
                }
                Program::Subscriber(follower) => {
                    tokio::spawn(self.clone().subscriber(follower, replica, node.clone()));
                }
            }
            node.death().await;
            // The next program finds what this one leaves behind.
            self.check();
            sleep(random.up_to(MAX_DOWN)).await;
        }
    }

    /// Checks what every service keeps.
    fn check(&self) {
        self.followers.iter().for_each(|follower| follower.contents.check());
    }

    fn link(&self, node: Arc<Node>, contents: Option<Arc<Contents>>) -> Arc<Link> {
        Arc::new(Link { node, contents, channels: self.channels.clone() })
    }

    async fn relay(self: Arc<Self>, owner: Arc<Owner>, node: Arc<Node>) {
        let db = owner.db.clone().with_driver(Driver::Stepped(node.clone()));
        let sink = mutant::sink(self.link(node, None), self.world.mutant());
        for owned in &owner.entities {
            let publisher = Publisher::open(&db, owned.entity.clone()).await.expect("it opens");
            publisher.spawn_relay_to(sink.clone(), self.stop.child_token());
        }
    }

    async fn subscriber(self: Arc<Self>, follower: Arc<Follower>, replica: usize, node: Arc<Node>) {
        let client = |read_model: &Arc<ReadModel>| {
            let mut all = self.entities().into_iter();
            let is_followed = |owned: &Owned| owned.entity == *read_model.history().entity();
            let (owner, owned) = all.find(|(_, owned)| is_followed(owned)).expect("an owner");
            let (owner, api) = (owner.clone(), owner.api(owned));
            Client { node: node.clone(), owner, api, followed: read_model.followed.clone() }
        };
        let clients = follower.contents.read_models.iter().map(client).collect();
        let link = self.link(node.clone(), Some(follower.contents.clone()));
        follower.start(replica, link, clients, self.settings, self.stop.child_token()).await;
    }

    /// The subject of an entity's notifications.
    pub(crate) fn subject(&self, entity: &EntityName, id: &str) -> String {
        subject::subject(entity, &EntityId::new(id).expect("a good id"))
    }

    /// A random index. There is nothing random about one of one, so that runs of a single entity draw nothing
    /// for it.
    fn one_of(&self, many: usize) -> usize {
        if many == 1 { 0 } else { self.world.below(many as u64) as usize }
    }

    /// All entities, each with its owner.
    fn entities(&self) -> Vec<(&Arc<Owner>, &Arc<Owned>)> {
        let entities = self.owners.iter();
        entities.flat_map(|owner| owner.entities.iter().map(move |owned| (owner, owned))).collect()
    }

    pub(crate) fn some_entity(&self) -> (Arc<Owner>, Arc<Owned>) {
        let entities = self.entities();
        let (owner, owned) = entities[self.one_of(entities.len())];
        (owner.clone(), owned.clone())
    }

    pub(crate) fn some_id(&self) -> &'static str {
        IDS[self.world.below(IDS.len() as u64) as usize]
    }

    /// The read models of an entity, one for each service that follows it.
    pub(crate) fn read_models_of(
        &self,
        entity: &EntityName,
    ) -> impl Iterator<Item = &Arc<ReadModel>> {
        self.followers.iter().filter_map(|follower| follower.contents.of(entity.as_str()))
    }

    fn some_state(&self, entity: &EntityName) -> Value {
        let read_model = self.read_models_of(entity).next().expect("it is followed");
        self.world.with_random(|random| read_model.service.state(random))
    }

    /// An owner changes one entity, or several in one transaction.
    pub(crate) async fn edit(&self) {
        let (owner, _) = self.some_entity();
        owner.entities.iter().for_each(|owned| owned.history.learn());
        let world = &self.world;
        let several = world.below(5) == 0;
        let mut changes = Changes::new();
        for _ in 0..if several { 3 } else { 1 } {
            let (at, id) = (self.one_of(owner.entities.len()), self.some_id());
            let delete = world.below(4) == 0;
            let state = self.some_state(&owner.entities[at].entity);
            changes.insert((at, id.to_owned()), (!delete).then_some(state));
        }
        if world.strikes(Fault::ClockSkew) {
            let skew = world.pick(Fault::ClockSkew, 2 * MAX_SKEW_MICROS).cast_signed();
            world.skew(skew - MAX_SKEW_MICROS.cast_signed());
        }
        let places = 2 * changes.len() as u64;
        let crash = Fault::CrashOwnerInTransaction;
        let ends_at = world.strikes(crash).then(|| world.pick(crash, places) as usize);
        let versions = owner.db.run(owner.write(&changes, ends_at)).await;
        let versions = versions.expect("the owner's database works");
        let named = |at: usize, id: &str| owner.entities[at].history.named(id);
        let Some(versions) = versions else {
            let ids: Vec<_> = changes.keys().map(|(at, id)| named(*at, id)).collect();
            return world.tell(format!("owner ends within its edit of {}", ids.join(", ")));
        };
        for (((at, id), state), version) in changes.into_iter().zip(versions) {
            let what = if state.is_some() { "changes" } else { "deletes" };
            world.tell(format!("owner {what} {} @{version}", named(at, &id)));
            owner.entities[at].history.note(&id, version, state);
        }
    }

    pub(crate) fn crash_all(&self, why: &str) {
        let nodes = self.nodes.lock();
        nodes.values().for_each(|node| node.crash(why));
    }
}

/// The owners, and their databases.
async fn owners(cast: &Cast, plain: &Arc<Plain>) -> Vec<Arc<Owner>> {
    let (world, all) = (&plain.world, cast.owners());
    let several = (all.iter().map(Vec::len).sum::<usize>() > 1, all.len() > 1);
    let mut owners = Vec::new();
    for names in &all {
        let names = names.iter().map(|name| EntityName::new(name).expect("a good name"));
        let db = database(&plain.runtime).await.with_driver(Driver::Stepped(plain.clone()));
        let owner = Owner::open(world, db, names.collect(), several).await;
        plant(&owner.db, Table::ChangeLog, world.mutant()).await;
        owners.push(owner);
    }
    owners
}

/// In some runs messages are redelivered soon; in some, so few are delivered at a time that there is a
/// backlog.
fn settings(world: &World) -> Settings {
    let mut settings = Settings::default();
    // Where notifications alone must do, comparing would hide what they lose.
    settings.resync.enabled = world.profile() == Profile::Unannounced;
    // Several pages.
    settings.resync.page = 2;
    // Rarely, since it is work for the database each time.
    settings.resync.contents_interval = CONTENTS_INTERVAL;
    if world.below(3) == 0 {
        settings.ack_wait = SHORT_ACK_WAIT;
    }
    if world.below(3) == 0 {
        settings.max_ack_pending = 1;
        settings.max_backlog_messages = 1;
    }
    settings
}
