//! One run: an owner writes, everything happens, everything heals, and everyone must be in step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_protocol::{Change, EntityId, EntityName, subject, timestamp::set_clock};
use nudge_publisher::Publisher;
use nudge_runtime::{Database, database::Driver};
use nudge_subscriber_kit::{Settings, Subscriber};
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    accident::Losses,
    check::{Checker, History, ReadModel},
    fault::{Fault, Profile},
    link::{LATE, Link},
    node::{Node, Role},
    owner::{self, Client, Entities},
    plain::{Plain, database, helper},
    poison::Poisoned,
    published::Published,
    report::Outcome,
    service::Service,
    world::{Plan, World, lock},
};

/// Ids of the entities of a run.
const KEYS: u64 = 4;
/// What the owner does in a run.
const EDITS: usize = 24;
/// Longest pause between two edits.
const MAX_PAUSE: Duration = Duration::from_millis(1_500);
/// Longest time until a program that ended is started again.
const MAX_DOWN: Duration = Duration::from_secs(4);
/// Time until everyone must be in step once all is healed. Virtual: it costs nothing.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Time that what is still on its way gets, longer than an acknowledgement may take; and as long
/// again, in which silence is demanded.
const SILENCE: Duration = Duration::from_secs(40);
/// What is not acknowledged comes again so soon, in some runs.
const SHORT_ACK_WAIT: Duration = Duration::from_secs(6);
/// Time after which everyone must still be in step.
const MOMENT: Duration = Duration::from_secs(2);
/// How far clocks jump, in microseconds.
const MAX_SKEW_MICROS: u64 = 3_600_000_000;

/// Runs a plan from beginning to end.
pub(crate) fn run<S: Service>(service: &Arc<S>, plan: Plan) -> Outcome {
    let helper = helper();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let world = World::new(plan.clone());
        let clock = world.clone();
        set_clock(Some(Box::new(move || clock.now_micros())));
        let theatre = Theatre::open(service.clone(), world.clone(), helper).await;
        theatre.play().await;
        Outcome::of(&plan, &world)
    });
    set_clock(None);
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
            scope.spawn(|| helper.block_on(migrate)).join().expect("no panic")
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
            self.stays_in_step().await;
        }
        self.stop.cancel();
    }

    /// Waits until everyone is in step, leaving some ids out.
    async fn in_step(&self, except: &BTreeSet<String>) {
        let began = self.world.elapsed();
        while let Some(difference) = self.differs(except) {
            if self.world.is_violated() {
                return;
            }
            if self.world.elapsed() > began + PATIENCE {
                return self.world.violated(format!("never in step: {difference}"));
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.world.tell(format!("in step after {:?}", self.world.elapsed() - began));
    }

    async fn stays_in_step(&self) {
        if self.world.profile() == Profile::Liveness {
            self.silence().await;
        } else {
            sleep(MOMENT).await;
        }
        if let Some(difference) = self.differs(&BTreeSet::new()) {
            self.world.violated(format!("out of step again: {difference}"));
        }
    }

    /// What is not in step: the read model, or the stream, in which the newest version of each entity
    /// must stand for whoever comes next.
    fn differs(&self, except: &BTreeSet<String>) -> Option<String> {
        if let Some(difference) = self.read_model.differs(except) {
            return Some(difference);
        }
        let history = lock(&self.history);
        history.newest().find_map(|(id, newest)| {
            let version = newest.map_or(0, |newest| newest.version);
            let subject = self.subject(id);
            let shown =
                self.world.with_broker(|broker| broker.version_on(&subject).map(str::to_owned));
            (shown != Some(version.to_string()))
                .then(|| format!("the stream shows {id}@{shown:?}; its owner is at {version}"))
        })
    }

    /// Nothing is left to do: no message, no call.
    async fn silence(&self) {
        sleep(SILENCE).await;
        let calls = self.world.calls();
        sleep(SILENCE).await;
        if self.world.calls() != calls {
            self.world.violated("calls go on though nothing changes");
        }
        let standing = self.world.with_broker(|broker| broker.unacknowledged());
        if standing > 0 {
            self.world.violated(format!("{standing} messages are never acknowledged"));
        }
    }

    /// Starts a program, and again whenever it has ended.
    async fn keep_running(self: Arc<Self>, name: String, role: Role) {
        let world = &self.world;
        for life in 1.. {
            sleep(world.up_to(Duration::from_millis(500))).await;
            let node =
                Node::new(format!("{name}.{life}"), role, world.clone(), self.helper.clone());
            world.tell(format!("{} starts", node.name));
            self.enter(&name, node.clone());
            match role {
                Role::Relay => drop(tokio::spawn(self.clone().relay(node.clone()))),
                Role::Subscriber => drop(tokio::spawn(self.clone().subscriber(node.clone()))),
            }
            node.death().await;
            sleep(world.up_to(MAX_DOWN)).await;
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

    async fn subscriber(self: Arc<Self>, node: Arc<Node>) {
        let db = self.copy_db.clone().with_driver(Driver::Stepped(node.clone()));
        let handler = self.service.handler(&db);
        let handler = Poisoned { handler, poison: self.poison.clone() };
        let api = self.owner.sync_api(Entities(self.owner_db.clone()));
        let client = Client { node: node.clone(), api, history: self.history.clone() };
        let read_model = self.read_model.clone();
        let started = Subscriber::builder_from("sim", &db, self.link(&node))
            .follow_with(S::ENTITY, Arc::new(client), handler)
            .after_commit(move || read_model.check())
            .settings(self.settings)
            .start(self.stop.child_token())
            .await;
        if let Err(error) = started {
            self.world.violated(format!("a subscriber cannot start: {error}"));
        }
    }

    /// What notifications of an entity are published on.
    pub(crate) fn subject(&self, id: &str) -> String {
        subject::subject(&self.entity, &EntityId::new(id).expect("a good id"))
    }

    pub(crate) fn some_id(&self) -> String {
        format!("key-{}", self.world.below(KEYS))
    }

    /// The owner changes one entity, or several in one transaction.
    async fn edit(&self) {
        self.read_model.learn();
        let several = self.world.below(5) == 0;
        let mut changes = BTreeMap::new();
        for _ in 0..if several { 3 } else { 1 } {
            let id = self.some_id();
            let delete = self.world.below(4) == 0;
            let state = self.world.with_random(|random| self.service.state(random));
            changes.insert(id, (!delete).then_some(state));
        }
        if self.world.strikes(Fault::ClockSkew) {
            let skew = i64::try_from(self.world.below(2 * MAX_SKEW_MICROS)).unwrap_or(0);
            self.world.skew(skew - MAX_SKEW_MICROS.cast_signed());
        }
        let work = async {
            let mut tx = self.owner.begin().await?;
            let mut versions = Vec::new();
            for (id, state) in &changes {
                let (sql, change) = match state {
                    Some(_) => (
                        "INSERT INTO entity VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET state = excluded.state",
                        Change::Updated,
                    ),
                    None => ("DELETE FROM entity WHERE id = $1", Change::Deleted),
                };
                let query = sqlx::query(sql).bind(id.clone());
                match state {
                    Some(state) => query.bind(state.to_string()).execute(&mut *tx).await?,
                    None => query.execute(&mut *tx).await?,
                };
                let key = EntityId::new(id).expect("a good id");
                versions.push(self.owner.record(&mut tx, &key, change).await?.get());
            }
            self.owner.commit(tx).await?;
            Ok::<_, sqlx::Error>(versions)
        };
        let versions = self.owner_db.run(work).await.expect("the owner's database works");
        let mut history = lock(&self.history);
        for ((id, state), version) in changes.into_iter().zip(versions) {
            let what = if state.is_some() { "changes" } else { "deletes" };
            self.world.tell(format!("owner {what} {id} @{version}"));
            history.note(&id, version, state, self.world.elapsed());
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
