//! One run: an owner writes, everything happens, everything heals, and everyone must be in step.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_protocol::{EntityId, EntityName, subject, timestamp::set_clock};
use nudge_publisher::Publisher;
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::{Settings, Subscriber};
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    accident::Losses,
    check::{Checker, History, ReadModel},
    fault::Fault,
    link::{LATE, Link},
    node::{Node, Role},
    owner::{self, Changes, Client, Entities},
    plain::{Plain, database, helper},
    poison::Poisoned,
    published::Published,
    report::Outcome,
    service::Service,
    world::{Plan, World, lock},
};

/// What ids begin with.
pub(crate) const KEY: &str = "key-";
/// Ids of the entities of a run.
const KEYS: u64 = 4;
/// What the owner does in a run.
const EDITS: usize = 24;
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
pub(crate) fn run<S: Service>(service: &Arc<S>, plan: Plan) -> Outcome {
    let helper = helper();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    // The world's time is this runtime's, also when nothing runs on it any more.
    let within = runtime.enter();
    let world = World::new(plan.clone());
    let clock = world.clone();
    set_clock(Some(Box::new(move || clock.now_micros())));
    let play = async {
        let theatre = Theatre::open(service.clone(), world.clone(), helper).await;
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
pub(crate) struct Theatre<S> {
    pub(crate) world: Arc<World>,
    service: Arc<S>,
    pub(crate) entity: EntityName,
    helper: Handle,
    pub(crate) owner_db: Database,
    owner: Publisher,
    pub(crate) read_model: Arc<ReadModel<S>>,
    copy_db: Database,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) published: Arc<Published>,
    pub(crate) poison: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    /// Each subscriber as last started, and where it runs.
    pub(crate) subscribers: Mutex<BTreeMap<String, (Arc<Node>, Subscriber)>>,
    pub(crate) settings: Settings,
    pub(crate) losses: Losses,
    /// What cannot be applied is not mended by itself any more.
    pub(crate) poison_stays: AtomicBool,
    stop: CancellationToken,
}

impl<S: Service> Theatre<S> {
    async fn open(service: Arc<S>, world: Arc<World>, helper: Handle) -> Arc<Self> {
        let entity = EntityName::new(S::ENTITY).expect("a good name");
        let plain = Arc::new(Plain { runtime: helper.clone(), world: world.clone() });
        let driver = || Driver::Stepped(plain.clone());
        let owner_db = database(&helper).await.with_driver(driver());
        owner_db.migrate("entities", owner::MIGRATIONS).await.expect("the tables are made");
        let owner = Publisher::open(&owner_db, entity.clone()).await.expect("it opens");
        let copy_db = database(&helper).await.with_driver(driver());
        // The service migrates as it does in production, without a gate: on the helper.
        std::thread::scope(|scope| {
            let migrate = service.migrate(&copy_db);
            let migrated = scope.spawn(|| helper.block_on(migrate)).join();
            migrated.unwrap_or_else(|panic| resume_unwind(panic))
        })
        .expect("the service's tables are made");
        // So that the checker can look before the first subscriber has started.
        let tables = Subscriber::migrate(&copy_db).await;
        tables.expect("the kit's tables are made");
        let history: Arc<Mutex<History>> = Arc::default();
        let read_model = ReadModel::new(
            world.clone(),
            service.clone(),
            copy_db.clone(),
            history.clone(),
            owner_db.clone(),
        );
        let (settings, losses) = (settings(&world), Losses::new(&world));
        Arc::new(Self {
            world,
            service,
            entity,
            helper,
            owner_db,
            owner,
            read_model: Arc::new(read_model),
            copy_db,
            history,
            published: Arc::default(),
            poison: Arc::default(),
            nodes: Mutex::default(),
            subscribers: Mutex::default(),
            settings,
            losses,
            poison_stays: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    async fn play(self: &Arc<Self>) {
        for n in 0..self.world.profile().replicas() {
            tokio::spawn(self.clone().keep_running(format!("relay-{n}"), Role::Relay));
            tokio::spawn(self.clone().keep_running(format!("subscriber-{n}"), Role::Subscriber));
        }
        for _ in 0..EDITS {
            sleep(self.world.up_to(MAX_PAUSE)).await;
            if self.world.is_violated() {
                return;
            }
            self.accident().await;
            self.edit().await;
        }
        self.world.heal();
        self.world.skew(0);
        // What was sent before still arrives.
        sleep(LATE).await;
        self.poison_stays.store(true, SeqCst);
        let spoilt = self.world.spoilt();
        if !spoilt.is_empty() {
            // What cannot be applied stays so for now. Nobody else may wait for it.
            self.in_step(&spoilt).await;
            lock(&self.poison).clear();
            // A release that mends it; dead letters get one more try with it.
            self.crash_all("for a new release");
        }
        self.in_step(&BTreeSet::new()).await;
        if !self.world.is_violated() {
            self.nothing_is_left().await;
            self.stays_in_step().await;
        }
        self.stop.cancel();
    }

    /// Starts a program, and again whenever it has ended.
    async fn keep_running(self: Arc<Self>, name: String, role: Role) {
        let world = &self.world;
        let mut random = world.random_of(&name);
        for life in 1.. {
            sleep(random.up_to(Duration::from_millis(500))).await;
            let node =
                Node::new(format!("{name}.{life}"), role, world.clone(), self.helper.clone());
            world.tell(format!("{} starts", node.name));
            self.enter(&name, node.clone());
            match role {
                Role::Relay => drop(tokio::spawn(self.clone().relay(node.clone()))),
                Role::Subscriber => {
                    drop(tokio::spawn(self.clone().subscriber(name.clone(), node.clone())));
                }
            }
            node.death().await;
            // What it leaves behind is what everyone finds who comes next.
            self.read_model.check();
            sleep(random.up_to(MAX_DOWN)).await;
        }
    }

    fn enter(&self, name: &str, node: Arc<Node>) {
        lock(&self.nodes).insert(name.to_owned(), node);
    }

    fn link(&self, node: &Arc<Node>) -> Arc<Link> {
        let (node, checker) = (node.clone(), self.read_model.clone() as Arc<dyn Checker>);
        Arc::new(Link { node, checker, published: self.published.clone() })
    }

    async fn relay(self: Arc<Self>, node: Arc<Node>) {
        let db = self.owner_db.clone().with_driver(Driver::Stepped(node.clone()));
        let publisher = Publisher::open(&db, self.entity.clone()).await.expect("it opens");
        publisher.spawn_relay_to(self.link(&node), self.stop.child_token());
    }

    async fn subscriber(self: Arc<Self>, name: String, node: Arc<Node>) {
        let db = self.copy_db.clone().with_driver(Driver::Stepped(node.clone()));
        let handler = self.service.handler(&db);
        let (checker, poison) = (self.read_model.clone(), self.poison.clone());
        let handler = Poisoned { handler, poison, node: node.clone(), checker };
        let api = self.owner.sync_api(Entities(self.owner_db.clone()));
        let client = Client { node: node.clone(), api, history: self.history.clone() };
        let read_model = self.read_model.clone();
        let started = Subscriber::builder_from("sim", &db, self.link(&node))
            .follow_with(S::ENTITY, Arc::new(client), handler)
            .after_commit(move || read_model.check())
            .settings(self.settings)
            .start(self.stop.child_token())
            .await;
        match started {
            Ok(subscriber) => drop(lock(&self.subscribers).insert(name, (node, subscriber))),
            Err(error) => self.world.violated(format!("a subscriber cannot start: {error}")),
        }
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
        self.read_model.learn();
        let world = &self.world;
        let several = world.below(5) == 0;
        let mut changes = Changes::new();
        for _ in 0..if several { 3 } else { 1 } {
            let id = self.some_id();
            let delete = world.below(4) == 0;
            let state = world.with_random(|random| self.service.state(random));
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
        let mut history = lock(&self.history);
        for ((id, state), version) in changes.into_iter().zip(versions) {
            let what = if state.is_some() { "changes" } else { "deletes" };
            world.tell(format!("owner {what} {id} @{version}"));
            history.note(&id, version, state, world.elapsed());
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
