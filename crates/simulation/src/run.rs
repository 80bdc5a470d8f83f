//! One run: an owner writes, everything happens, everything heals, and everyone must be in step.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_protocol::{EntityId, EntityName, subject, timestamp::set_clock};
use nudge_publisher::Publisher;
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::Settings;
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    accident::Losses,
    check::ReadModel,
    end::Except,
    fault::Fault,
    follower::Follower,
    history::History,
    link::{LATE, Link},
    node::{Node, Role},
    owner::{self, Changes, Client, Entities},
    plain::{Plain, database, helper},
    processor::OneProcessor,
    published::Published,
    report::Outcome,
    simulation::{RELAY, Simulation},
    world::{Plan, World, lock},
};

/// What ids begin with.
pub(crate) const KEY: &str = "key-";
/// Ids of the entities of a run.
const KEYS: u64 = 4;
/// What the owner does in a run.
const EDITS: usize = 24;
/// How often something more may befall everyone when the owner does nothing more: no later edit of the same
/// entity brings then what was lost.
const MORE_ACCIDENTS: usize = 6;
/// Longest pause between two edits.
const MAX_PAUSE: Duration = Duration::from_millis(1_500);
/// Longest time until a program that ended is started again.
const MAX_DOWN: Duration = Duration::from_secs(4);
/// What is not acknowledged comes again so soon, in some runs.
const SHORT_ACK_WAIT: Duration = Duration::from_secs(6);
/// How far clocks jump, in microseconds.
const MAX_SKEW_MICROS: u64 = 3_600_000_000;

/// Runs a plan from beginning to end. A panic is a rule that is broken, too: it is to be told with the
/// seed and the story.
pub(crate) fn run(simulation: &Simulation, plan: Plan) -> Outcome {
    let _one = OneProcessor::of_this_thread();
    let helper = helper();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    // The world's time is this runtime's, also when nothing runs on it any more.
    let within = runtime.enter();
    let world = World::new(plan.clone());
    let clock = world.clone();
    set_clock(Some(Box::new(move || clock.now_micros())));
    let play = async {
        let theatre = Theatre::open(simulation, world.clone(), helper).await;
        theatre.play().await;
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play))) {
        world.panicked(&*panic);
    }
    let outcome = Outcome::of(&plan, &world);
    set_clock(None);
    drop(within);
    outcome
}

/// Everyone in a run.
pub(crate) struct Theatre {
    pub(crate) world: Arc<World>,
    /// Replicas of each service, and relays.
    replicas: usize,
    pub(crate) entity: EntityName,
    helper: Handle,
    pub(crate) owner_db: Database,
    owner: Publisher,
    pub(crate) history: Arc<History>,
    pub(crate) followers: Vec<Arc<Follower>>,
    pub(crate) published: Arc<Published>,
    /// Each program as last started, by whose it is and its number.
    pub(crate) nodes: Mutex<BTreeMap<(String, usize), Arc<Node>>>,
    settings: Settings,
    pub(crate) losses: Losses,
    /// What cannot be applied is not mended by itself any more.
    pub(crate) poison_stays: AtomicBool,
    stop: CancellationToken,
}

impl Theatre {
    async fn open(simulation: &Simulation, world: Arc<World>, helper: Handle) -> Arc<Self> {
        let services = &simulation.services;
        let entity = EntityName::new(services[0].1.entity()).expect("a good name");
        let plain = Arc::new(Plain { runtime: helper.clone(), world: world.clone() });
        let owner_db = database(&helper).await.with_driver(Driver::Stepped(plain.clone()));
        owner_db.migrate("entities", owner::MIGRATIONS).await.expect("the tables are made");
        let owner = Publisher::open(&owner_db, entity.clone()).await.expect("it opens");
        let history = History::new(world.clone(), owner_db.clone());
        let mut followers = Vec::new();
        for (name, service) in services {
            let (service, several) = (service.clone(), services.len() > 1);
            let follower =
                Follower::open(name, service, several, history.clone(), plain.clone()).await;
            followers.push(Arc::new(follower));
        }
        let (settings, losses) = (settings(&world), Losses::new(&world));
        Arc::new(Self {
            replicas: simulation.replicas_in(world.profile()),
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

    async fn play(self: &Arc<Self>) {
        for replica in 0..self.replicas {
            tokio::spawn(self.clone().keep_running(None, replica));
            for follower in &self.followers {
                tokio::spawn(self.clone().keep_running(Some(follower.clone()), replica));
            }
        }
        for n in 0..EDITS + MORE_ACCIDENTS {
            sleep(self.world.up_to(MAX_PAUSE)).await;
            if self.world.is_violated() {
                return;
            }
            self.accident().await;
            if n < EDITS {
                self.edit().await;
            }
        }
        self.world.heal();
        self.world.skew(0);
        // Who stands still wakes up, and what was sent before still arrives.
        let standing_still = lock(&self.nodes).values().map(|node| node.frozen_for()).max();
        sleep(standing_still.unwrap_or_default() + LATE).await;
        self.poison_stays.store(true, SeqCst);
        let followers = self.followers.iter();
        if followers.clone().any(|follower| !self.world.spoilt(follower.name()).is_empty()) {
            // What cannot be applied stays so for now. Nobody else may wait for it.
            self.in_step(Except::Spoilt).await;
            followers.for_each(|follower| lock(&follower.poison).clear());
            // A release that mends it; dead letters get one more try with it.
            self.crash_all("for a new release");
        }
        self.in_step(Except::None).await;
        if !self.world.is_violated() {
            self.nothing_is_left().await;
            self.stays_in_step().await;
        }
        self.stop.cancel();
    }

    /// Starts a program, and again whenever it has ended: a service's, or else a relay.
    async fn keep_running(self: Arc<Self>, follower: Option<Arc<Follower>>, replica: usize) {
        let world = &self.world;
        let of = follower.as_ref().map_or(RELAY, |follower| follower.name());
        let role = if follower.is_some() { Role::Subscriber } else { Role::Relay };
        let mut random = world.random_of(&format!("{of}-{replica}"));
        for life in 1.. {
            sleep(random.up_to(Duration::from_millis(500))).await;
            let node = Node::new(of, (replica, life), role, world.clone(), self.helper.clone());
            world.tell(format!("{} starts", node.name));
            lock(&self.nodes).insert((of.to_owned(), replica), node.clone());
            match &follower {
                None => drop(tokio::spawn(self.clone().relay(node.clone()))),
                Some(follower) => {
                    let starting = self.clone().subscriber(follower.clone(), replica, node.clone());
                    drop(tokio::spawn(starting));
                }
            }
            node.death().await;
            // What it leaves behind is what everyone finds who comes next.
            self.check();
            sleep(random.up_to(MAX_DOWN)).await;
        }
    }

    /// Looks at every read model.
    fn check(&self) {
        self.followers.iter().for_each(|follower| follower.read_model.check());
    }

    fn link(&self, node: Arc<Node>, read_model: Option<Arc<ReadModel>>) -> Arc<Link> {
        Arc::new(Link { node, read_model, published: self.published.clone() })
    }

    async fn relay(self: Arc<Self>, node: Arc<Node>) {
        let db = self.owner_db.clone().with_driver(Driver::Stepped(node.clone()));
        let publisher = Publisher::open(&db, self.entity.clone()).await.expect("it opens");
        publisher.spawn_relay_to(self.link(node, None), self.stop.child_token());
    }

    async fn subscriber(self: Arc<Self>, follower: Arc<Follower>, replica: usize, node: Arc<Node>) {
        let api = self.owner.sync_api(Entities(self.owner_db.clone()));
        let client = Client { node: node.clone(), api, history: self.history.clone() };
        let link = self.link(node, Some(follower.read_model.clone()));
        let stop = self.stop.child_token();
        follower.start(replica, link, Arc::new(client), self.settings, stop).await;
    }

    /// What notifications of an entity are published on.
    pub(crate) fn subject(&self, id: &str) -> String {
        subject::subject(&self.entity, &EntityId::new(id).expect("a good id"))
    }

    pub(crate) fn some_id(&self) -> String {
        format!("{KEY}{}", self.world.below(KEYS))
    }

    /// The owner changes one entity, or several in one transaction.
    async fn edit(&self) {
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

    fn crash_all(&self, why: &str) {
        let nodes = lock(&self.nodes);
        nodes.values().for_each(|node| node.crash(why));
    }
}

/// In some runs messages come again soon; in some, so few are given out at a time that there is a
/// backlog.
fn settings(world: &World) -> Settings {
    let mut settings = Settings::default();
    if world.below(3) == 0 {
        settings.ack_wait = SHORT_ACK_WAIT;
    }
    if world.below(3) == 0 {
        settings.max_ack_pending = 1;
        settings.max_backlog_messages = 1;
    }
    settings
}
