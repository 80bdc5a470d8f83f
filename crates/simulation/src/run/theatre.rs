//! Everyone in a run, and what they do: programs start, crash, and restart; the owner edits.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use nudge_protocol::{EntityId, EntityName, subject};
use nudge_publisher::Publisher;
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::Settings;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    cast::Cast,
    fault::Fault,
    follower::Follower,
    history::History,
    link::{Link, published::Published},
    mutant::{
        self,
        tables::{Table, plant},
    },
    node::{Node, Role},
    owner::{self, Changes, Client, Entities},
    plain::{Plain, database},
    plan::{KEY, RELAY},
    profile::Profile,
    read_model::ReadModel,
    world::World,
};

/// Ids of the entities of a run.
const KEYS: u64 = 4;
/// Longest time until a crashed program is restarted.
const MAX_DOWN: Duration = Duration::from_secs(4);
/// The time until redelivery, in some runs.
const SHORT_ACK_WAIT: Duration = Duration::from_secs(6);
/// How often contents are compared.
const CONTENTS_INTERVAL: Duration = Duration::from_secs(8);
/// How far clocks jump, in microseconds.
const MAX_SKEW_MICROS: u64 = 3_600_000_000;

/// Who may permanently lose something in this run. If both the broker and one of the databases did,
/// nothing would be left that knows about it.
pub(crate) struct Losses {
    pub(crate) by_databases: bool,
    pub(crate) owner_backed_up: AtomicBool,
}

impl Losses {
    fn new(world: &World) -> Self {
        let broker_may = world.may(Fault::Rollback) || world.may(Fault::StreamLoss);
        let by_databases = world.below(2) == 0 || !broker_may;
        Self { by_databases, owner_backed_up: AtomicBool::new(false) }
    }
}

/// Everyone in a run.
pub(crate) struct Theatre {
    pub(crate) world: Arc<World>,
    /// Replicas of each service, and relays.
    pub(crate) replicas: usize,
    pub(crate) entity: EntityName,
    helper: Handle,
    pub(crate) owner_db: Database,
    owner: Publisher,
    pub(crate) history: Arc<History>,
    pub(crate) followers: Vec<Arc<Follower>>,
    pub(crate) published: Arc<Published>,
    /// Each program as last started, by its service and number.
    pub(crate) nodes: Mutex<BTreeMap<(String, usize), Arc<Node>>>,
    settings: Settings,
    pub(crate) losses: Losses,
    /// Entities that cannot be applied no longer heal by themselves.
    pub(crate) poison_stays: AtomicBool,
    pub(crate) stop: CancellationToken,
}

impl Theatre {
    pub(crate) async fn open(cast: &Cast, world: Arc<World>, helper: Handle) -> Arc<Self> {
        let services = &cast.services;
        let entity = EntityName::new(services[0].1.entity()).expect("a good name");
        let plain = Arc::new(Plain { runtime: helper.clone(), world: world.clone() });
        let owner_db = database(&helper).await.with_driver(Driver::Stepped(plain.clone()));
        owner_db.migrate("entities", owner::MIGRATIONS).await.expect("the tables are made");
        let owner = Publisher::open(&owner_db, entity.clone()).await.expect("it opens");
        plant(&owner_db, Table::ChangeLog, world.mutant()).await;
        let history = History::new(world.clone(), owner_db.clone());
        let mut followers = Vec::new();
        for (name, service) in services {
            let (service, several) = (service.clone(), services.len() > 1);
            let follower =
                Follower::open(name, service, several, history.clone(), plain.clone()).await;
            followers.push(Arc::new(follower));
        }
        if !followers.iter().any(|follower| follower.can_be_read) {
            world.rule_out(Fault::RowEdited);
        }
        let (settings, losses) = (settings(&world), Losses::new(&world));
        Arc::new(Self {
            replicas: cast.replicas_in(world.profile()),
            world,
            entity,
            helper,
            owner_db,
            owner,
            history,
            followers,
            published: Arc::default(),
            nodes: Mutex::default(),
            settings,
            losses,
            poison_stays: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    /// Starts a program, a service's or a relay, and restarts it whenever it crashes.
    pub(crate) async fn keep_running(
        self: Arc<Self>,
        follower: Option<Arc<Follower>>,
        replica: usize,
    ) {
        let world = &self.world;
        let of = follower.as_ref().map_or(RELAY, |follower| follower.name());
        let role = if follower.is_some() { Role::Subscriber } else { Role::Relay };
        let mut random = world.random_of(&format!("{of}-{replica}"));
        for life in 1.. {
            sleep(random.up_to(Duration::from_millis(500))).await;
            let node = Node::new(of, (replica, life), role, world.clone(), self.helper.clone());
            world.tell(format!("{} starts", node.name));
            self.nodes.lock().insert((of.to_owned(), replica), node.clone());
            match &follower {
                None => drop(tokio::spawn(self.clone().relay(node.clone()))),
                Some(follower) => {
                    let starting = self.clone().subscriber(follower.clone(), replica, node.clone());
                    drop(tokio::spawn(starting));
                }
            }
            node.death().await;
            // The next program finds what this one leaves behind.
            self.check();
            sleep(random.up_to(MAX_DOWN)).await;
        }
    }

    /// Checks every read model.
    fn check(&self) {
        self.followers.iter().for_each(|follower| follower.read_model.check());
    }

    fn link(&self, node: Arc<Node>, read_model: Option<Arc<ReadModel>>) -> Arc<Link> {
        Arc::new(Link { node, read_model, published: self.published.clone() })
    }

    async fn relay(self: Arc<Self>, node: Arc<Node>) {
        let db = self.owner_db.clone().with_driver(Driver::Stepped(node.clone()));
        let publisher = Publisher::open(&db, self.entity.clone()).await.expect("it opens");
        let sink = mutant::sink(self.link(node, None), self.world.mutant());
        publisher.spawn_relay_to(sink, self.stop.child_token());
    }

    async fn subscriber(self: Arc<Self>, follower: Arc<Follower>, replica: usize, node: Arc<Node>) {
        let api = self.owner.sync_api(Entities(self.owner_db.clone()));
        let (history, unanswered) = (self.history.clone(), follower.unanswered.clone());
        let client = Client { node: node.clone(), api, history, unanswered };
        let link = self.link(node, Some(follower.read_model.clone()));
        follower.start(replica, link, client, self.settings, self.stop.child_token()).await;
    }

    /// The subject of an entity's notifications.
    pub(crate) fn subject(&self, id: &str) -> String {
        subject::subject(&self.entity, &EntityId::new(id).expect("a good id"))
    }

    pub(crate) fn some_id(&self) -> String {
        format!("{KEY}{}", self.world.below(KEYS))
    }

    /// The owner changes one entity, or several in one transaction.
    pub(crate) async fn edit(&self) {
        self.history.learn();
        let world = &self.world;
        let several = world.below(5) == 0;
        let mut changes = Changes::new();
        for _ in 0..if several { 3 } else { 1 } {
            let id = self.some_id();
            let delete = world.below(4) == 0;
            let state =
                world.with_random(|random| self.followers[0].read_model.service.state(random));
            changes.insert(id, (!delete).then_some(state));
        }
        if world.strikes(Fault::ClockSkew) {
            let skew = world.pick(Fault::ClockSkew, 2 * MAX_SKEW_MICROS).cast_signed();
            world.skew(skew - MAX_SKEW_MICROS.cast_signed());
        }
        let places = 2 * changes.len() as u64;
        let crash = Fault::CrashOwnerInTransaction;
        let ends_at = world.strikes(crash).then(|| world.pick(crash, places) as usize);
        let work = owner::write(&self.owner, &changes, ends_at);
        let versions = self.owner_db.run(work).await.expect("the owner's database works");
        let Some(versions) = versions else {
            let ids: Vec<_> = changes.keys().map(String::as_str).collect();
            return world.tell(format!("owner ends within its edit of {}", ids.join(", ")));
        };
        for ((id, state), version) in changes.into_iter().zip(versions) {
            let what = if state.is_some() { "changes" } else { "deletes" };
            world.tell(format!("owner {what} {id} @{version}"));
            self.history.note(&id, version, state);
        }
    }

    pub(crate) fn crash_all(&self, why: &str) {
        let nodes = self.nodes.lock();
        nodes.values().for_each(|node| node.crash(why));
    }
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
