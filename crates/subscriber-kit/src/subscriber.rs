//! Puts the parts together: the builder, and the handle of the running tasks.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, EntityName, InvalidEntityName, Timestamp, Version, sync_api::MAX_FIELDS,
};
use nudge_runtime::{
    BoxError, Broker, Database, alerts::Alerts, auth::Credentials, database::OpenError,
    tasks::DeadTasks, traces::Traces,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    apply::{Apply, NO_REVISION, shape},
    callback::{http_owner::HttpOwner, owner_client::OwnerClient, owner_link::OwnerLink},
    intake::{Intake, cloud_events::CloudEvents, source::Source},
    read_model::{
        applied::Waiters, dead_letter::DeadLetters, guard::Applier, position::Positions,
        recent::Recent, replica::Replica, revision::Revisions, tables,
    },
    resync::{Parts, Resync, ledger::Ledger},
    retry::InARow,
    settings::{MAX_UNUSED_AFTER, MIN_UNUSED_AFTER, Settings},
    telemetry::{events::Events, progress::Progress, runs::Runs, seldom::Seldom, traces::Waiting},
    work::{
        batch::Batches,
        look::{Look, MAX_LOOKS_WAITING},
        reentry, refill,
        settle::Settling,
        worker::{Incoming, Worker},
    },
};

/// Longest wait for the broker to accept the last acknowledgements when a subscriber stops.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);
/// Longest wait for the database to forget a replica that stops.
const LEAVE_DEADLINE: Duration = Duration::from_secs(1);
/// Capacity of the channel to the worker, in keys.
const INCOMING_CAPACITY: usize = 1_024;

/// Why a subscriber cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kit's tables cannot be created.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The entity's name is invalid.
    #[error(transparent)]
    Entity(#[from] InvalidEntityName),
    /// An entity was followed twice.
    #[error("{0} is followed twice")]
    FollowedTwice(EntityName),
    /// CloudEvents are to tell of an entity that is not followed.
    #[error("{0} is not followed, so no CloudEvents can tell of it")]
    NotFollowed(String),
    /// No entity was followed, and none is owned.
    #[error("a service must follow or own at least one entity")]
    FollowsNothing,
    /// It would never be ready.
    #[error(
        "a subscriber that is ready only when equal to its owners must compare itself with them"
    )]
    NeverEqual,
    /// Names of consumers would be taken over at once, or never.
    #[error("Settings::unused_after must be from {MIN_UNUSED_AFTER:?} to {MAX_UNUSED_AFTER:?}")]
    UnusedAfter,
    /// A handler cannot create the tables that it writes to.
    #[error("cannot prepare the read model of {entity}")]
    Prepare {
        /// The followed entity.
        entity: EntityName,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The HTTP client for an owner cannot be created.
    #[error("cannot create the HTTP client for the owner of {entity}")]
    Client {
        /// The entity that the owner publishes.
        entity: EntityName,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
}

type StartFuture<'a> = Pin<Box<dyn Future<Output = Result<Followed, StartError>> + Send + 'a>>;
type Start = Box<dyn FnOnce(&mut Starting) -> StartFuture<'_> + Send>;

/// Collects what a subscriber follows. Created by [`Subscriber::builder`].
#[must_use]
pub struct Builder {
    service: String,
    db: Database,
    source: Arc<dyn Source>,
    settings: Settings,
    owned: Vec<String>,
    no_tombstones: Vec<String>,
    optional: Vec<String>,
    cloud_events: HashMap<String, CloudEvents>,
    after_commit: Option<Arc<dyn Fn() + Send + Sync>>,
    alerts: Alerts,
    credentials: Credentials,
    traces: Traces,
    follows: Vec<Start>,
}

/// What the followed entities share while they start.
struct Starting {
    service: String,
    db: Database,
    source: Arc<dyn Source>,
    settings: Settings,
    no_tombstones: Vec<String>,
    optional: Vec<String>,
    cloud_events: HashMap<String, CloudEvents>,
    after_commit: Option<Arc<dyn Fn() + Send + Sync>>,
    alerts: Alerts,
    credentials: Credentials,
    traces: Traces,
    events: Events,
    paused: watch::Receiver<bool>,
    owners: HashMap<String, Arc<dyn OwnerClient>>,
    registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One followed entity, seen from outside its tasks.
pub(crate) struct Followed {
    pub(crate) entity: EntityName,
    pub(crate) owner: OwnerLink,
    pub(crate) progress: Arc<Progress>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) waiters: Waiters,
    /// How far it is compared with its owner; `None` if it is not.
    pub(crate) ledger: Option<Ledger>,
    /// Whether the owner keeps tombstones.
    pub(crate) tombstones: bool,
    /// How its last runs went.
    pub(crate) runs: Arc<Runs>,
    /// Asks how keys stand in the work queue.
    pub(crate) looks: mpsc::Sender<Look>,
    queue: mpsc::Sender<Incoming>,
}

impl Followed {
    /// Puts a key on the work queue. Returns `false` if the subscriber has stopped.
    pub(crate) async fn enqueue(&self, id: EntityId, floor: Version, attempts: u32) -> bool {
        self.queue.send(Incoming::unasked(id, floor, attempts)).await.is_ok()
    }
}

pub(crate) struct Shared {
    pub(crate) service: String,
    pub(crate) followed: Vec<Followed>,
    pub(crate) owned: Vec<String>,
    pub(crate) events: Events,
    pub(crate) paused: watch::Sender<bool>,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) db: Database,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) stop: CancellationToken,
    /// See [`Builder::ready_when_equal`].
    pub(crate) ready_when_equal: bool,
    tasks: TaskTracker,
}

/// A running subscriber. Cloning is cheap. The tasks run until the token passed to [`Builder::start`] is
/// cancelled.
#[derive(Clone)]
pub struct Subscriber {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let follows: Vec<_> = self.shared.followed.iter().map(|f| &f.entity).collect();
        let mut debug = f.debug_struct("Subscriber");
        debug.field("service", &self.shared.service).field("follows", &follows).finish()
    }
}

impl Subscriber {
    /// Starts to describe a subscriber. `service` names it at the broker: replicas that share a database share
    /// the name.
    pub fn builder(service: &str, db: &Database, broker: &Broker) -> Builder {
        Self::builder_from(service, db, Arc::new(broker.clone()))
    }

    /// Like [`builder`](Self::builder), with another source of notifications. For tests and simulations.
    pub fn builder_from(service: &str, db: &Database, source: Arc<dyn Source>) -> Builder {
        Builder {
            service: service.to_owned(),
            db: db.clone(),
            source,
            settings: Settings::default(),
            owned: Vec::new(),
            no_tombstones: Vec::new(),
            optional: Vec::new(),
            cloud_events: HashMap::new(),
            after_commit: None,
            alerts: Alerts::default(),
            credentials: Credentials::default(),
            traces: Traces::default(),
            follows: Vec::new(),
        }
    }

    /// Creates the kit's tables in a read model, or brings them up to date. [`Builder::start`] does this
    /// itself.
    pub async fn migrate(db: &Database) -> Result<(), OpenError> {
        db.migrate("subscriber-kit", tables::MIGRATIONS).await
    }

    /// Waits until the token is cancelled and every task has ended. Runs in progress finish, within the deadline,
    /// and are acknowledged; nothing else is.
    pub async fn stopped(&self) {
        self.shared.stop.cancelled().await;
        self.shared.tasks.wait().await;
        // Dropping the connection loses whatever it has not sent yet.
        let flushed = tokio::time::timeout(FLUSH_DEADLINE, self.shared.source.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::debug!(
                "the broker is unreachable: the last messages handled will be redelivered"
            );
        }
    }

    /// Whether every followed entity has caught up once since this read model was created, and was found equal to its
    /// owner if [that is waited for](Builder::ready_when_equal); except those that are [optional](Builder::optional) and
    /// have no stream yet. A subscriber stays ready during an outage of the
    /// broker or of an owner, and serves what it has. Once one of its tasks has panicked, it is not ready any more.
    pub fn is_ready(&self) -> bool {
        let is_ready = |f: &Followed| {
            f.progress.dead_tasks.is_empty()
                && !f.progress.is_awaited()
                && (!self.shared.ready_when_equal || !f.progress.is_unequal())
        };
        !self.shared.stop.is_cancelled() && self.shared.followed.iter().all(is_ready)
    }

    /// The last moment at which this read model is known to have held everything that its owners had announced; `None`
    /// before the first one of this process. It is looked at about once a second while the broker is connected, so a
    /// much older one means that notifications do not arrive, or cannot be applied. Losses that no message tells of are
    /// not part of it.
    pub fn current_at(&self) -> Option<Timestamp> {
        // None is less than any moment.
        self.shared.followed.iter().map(|f| f.progress.current_at.get()).min()?
    }

    /// Adds metrics of the service's own to `/metrics`.
    pub fn with_registry<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.shared.registry.lock())
    }
}

impl Builder {
    /// Follows `entity`, which the owner at `owner_url` publishes, and hands its states to `handler`. Call this
    /// once for each entity; they may have different owners, and share the database.
    pub fn follow<A: Apply>(mut self, entity: &str, owner_url: &str, handler: A) -> Self {
        let (entity, url) = (entity.to_owned(), owner_url.trim_end_matches('/').to_owned());
        self.follows.push(Box::new(move |starting| {
            Box::pin(async move {
                let entity = EntityName::new(&entity)?;
                let owner = starting.http_owner(&entity, &url)?;
                starting.follow(entity, owner, handler).await
            })
        }));
        self
    }

    /// Like [`follow`](Self::follow), with another client for the owner. For tests and simulations.
    pub fn follow_with<A: Apply>(
        mut self,
        entity: &str,
        client: Arc<dyn OwnerClient>,
        handler: A,
    ) -> Self {
        let entity = entity.to_owned();
        self.follows.push(Box::new(move |starting| {
            Box::pin(async move {
                let entity = EntityName::new(&entity)?;
                starting.follow(entity, OwnerLink::new(client), handler).await
            })
        }));
        self
    }

    /// Says that this service owns `entity` itself. A token for it is then accepted without a wait, because its
    /// write is visible at once.
    pub fn owns(mut self, entity: &str) -> Self {
        self.owned.push(entity.to_owned());
        self
    }

    /// Says that the owner of `entity` forgets what it deletes, and from then on answers "unknown". An entity
    /// that is applied here then counts as deleted once the owner answers "unknown" twice, the second time at
    /// least [`Settings::second_look_after`] later. Without this, "unknown" never means deleted.
    pub fn owner_keeps_no_tombstones(mut self, entity: &str) -> Self {
        self.no_tombstones.push(entity.to_owned());
        self
    }

    /// Learns of changes of `entity` from CloudEvents instead of its owner's own stream: from a publisher that knows nothing of
    /// Nudge. The owner is asked for the state as ever, so it answers the sync API: `batch-get`, and `items` as far as
    /// anything else than a message should be noticed. Such events bring no version, so each callback is made twice, a second
    /// apart; and what their stream drops, only comparing finds.
    ///
    /// The stream's retention must be `limits`: from any other, a consumer would take messages away from its readers.
    ///
    /// ```
    /// # use nudge_subscriber_kit::{Builder, CloudEvents};
    /// # fn example(builder: Builder) -> Builder {
    /// builder.cloud_events("order", CloudEvents::on("ORDERS", "shop.orders.*"))
    /// # }
    /// ```
    pub fn cloud_events(mut self, entity: &str, events: CloudEvents) -> Self {
        self.cloud_events.insert(entity.to_owned(), events);
        self
    }

    /// Says that the service is of use without `entity`: if its stream does not exist when the program starts, because nobody
    /// owns it yet, the service gets ready without it, and stays so when it comes. If the stream exists, its first catch-up is
    /// waited for as ever.
    pub fn optional(mut self, entity: &str) -> Self {
        self.optional.push(entity.to_owned());
        self
    }

    /// Calls `hook` after each commit of applied states, for instance to wake a relay if `apply` records changes
    /// of its own.
    pub fn after_commit(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.after_commit = Some(Arc::new(hook));
        self
    }

    /// Tells an operator what needs one.
    pub fn alerts(mut self, alerts: &Alerts) -> Self {
        self.alerts = alerts.clone();
        self
    }

    /// Sends the service's own token with callbacks.
    pub fn credentials(mut self, credentials: &Credentials) -> Self {
        self.credentials = credentials.clone();
        self
    }

    /// Follows the traces of changes into this read model.
    pub fn traces(mut self, traces: &Traces) -> Self {
        self.traces = traces.clone();
        self
    }

    /// Replaces the default limits.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets how much of its owners' time comparing with them may take, in percent; 0 switches it off.
    pub fn resync_percent(mut self, percent: u32) -> Self {
        self.settings.resync.enabled = percent > 0;
        self.settings.resync.owner_percent = percent;
        self
    }

    /// Makes it ready only once a comparison of everything has found each followed entity equal to its owner, which
    /// begins at once and without pauses. So a read model can be built anew beside the one that serves: start the service
    /// with an empty database as well, and switch when it is ready.
    pub fn ready_when_equal(mut self, ready_when_equal: bool) -> Self {
        self.settings.resync.ready_when_equal = ready_when_equal;
        self
    }

    /// Migrates the kit's tables and starts every task. They run until `stop` is cancelled.
    pub async fn start(self, stop: CancellationToken) -> Result<Subscriber, StartError> {
        if self.follows.is_empty() && self.owned.is_empty() {
            return Err(StartError::FollowsNothing);
        }
        let ready_when_equal = self.settings.resync.ready_when_equal;
        if ready_when_equal && !self.settings.resync.enabled {
            return Err(StartError::NeverEqual);
        }
        if !(MIN_UNUSED_AFTER..=MAX_UNUSED_AFTER).contains(&self.settings.unused_after) {
            return Err(StartError::UnusedAfter);
        }
        Subscriber::migrate(&self.db).await?;
        let (paused, _) = watch::channel(false);
        let mut registry = Registry::default();
        self.alerts.register(&mut registry);
        self.traces.register(&mut registry);
        let mut starting = Starting {
            service: self.service,
            db: self.db,
            source: self.source,
            settings: self.settings,
            no_tombstones: self.no_tombstones,
            optional: self.optional,
            cloud_events: self.cloud_events,
            after_commit: self.after_commit,
            alerts: self.alerts,
            credentials: self.credentials,
            traces: self.traces,
            events: Events::new(),
            paused: paused.subscribe(),
            owners: HashMap::new(),
            registry,
            tasks: TaskTracker::new(),
            // A child: if the start fails halfway, whatever has started is stopped again.
            stop: stop.child_token(),
        };
        let guard = starting.stop.clone().drop_guard();
        let mut followed: Vec<Followed> = Vec::new();
        for follow in self.follows {
            let one = follow(&mut starting).await?;
            if followed.iter().any(|other| other.entity == one.entity) {
                return Err(StartError::FollowedTwice(one.entity));
            }
            followed.push(one);
        }
        if let Some(entity) = starting.cloud_events.keys().next() {
            return Err(StartError::NotFollowed(entity.clone()));
        }
        guard.disarm();
        starting.tasks.close();
        let Starting { service, db, source, events, registry, tasks, stop, .. } = starting;
        let (owned, registry) = (self.owned, Mutex::new(registry));
        let shared = Shared {
            service,
            followed,
            owned,
            events,
            paused,
            registry,
            db,
            source,
            stop,
            ready_when_equal,
            tasks,
        };
        Ok(Subscriber { shared: Arc::new(shared) })
    }
}

impl Starting {
    /// The link to an owner. Entities of the same owner share its connections.
    fn http_owner(&mut self, entity: &EntityName, url: &str) -> Result<OwnerLink, StartError> {
        if let Some(client) = self.owners.get(url) {
            return Ok(OwnerLink::new(client.clone()));
        }
        let client = HttpOwner::new(url, &self.settings, &self.credentials)
            .map(|client| client.named(&self.service))
            .map_err(|source| StartError::Client { entity: entity.clone(), source })?;
        let client: Arc<dyn OwnerClient> = Arc::new(client);
        self.owners.insert(url.to_owned(), client.clone());
        Ok(OwnerLink::new(client))
    }

    async fn follow<A: Apply>(
        &mut self,
        entity: EntityName,
        owner: OwnerLink,
        handler: A,
    ) -> Result<Followed, StartError> {
        if let Err(source) = handler.prepare(&self.db).await {
            return Err(StartError::Prepare { entity, source });
        }
        let progress = Arc::new(Progress::new(self.alerts.of(&entity)));
        progress.register(&mut self.registry, &entity);
        let waiters = Waiters::new(self.db.clone(), entity.clone());
        let recent = Arc::new(Recent::new(self.db.clone(), entity.clone()));
        let (queue, incoming) = mpsc::channel(INCOMING_CAPACITY);
        let (looks, waiting) = mpsc::channel(MAX_LOOKS_WAITING);
        let runs = Arc::new(Runs::default());
        let traces = Waiting::new(&self.traces);
        let replica = Replica::new(self.db.clone(), entity.clone());
        let revision = handler.revision();
        let dead_letters = DeadLetters::new(self.db.clone(), entity.clone(), revision);
        let tombstones = !self.no_tombstones.iter().any(|name| name == entity.as_str());
        let batches = Arc::new(Batches {
            owner: owner.clone(),
            applier: Applier::new(self.db.clone(), entity.clone(), handler, recent.clone()),
            fields: asked_for::<A>(),
            settling: Settling {
                entity: entity.clone(),
                dead_letters: dead_letters.clone(),
                events: self.events.clone(),
                progress: progress.clone(),
                runs: runs.clone(),
                traces: traces.clone(),
                retry: self.settings.retry,
                parking: InARow::default(),
                said: Seldom::default(),
            },
            waiters: waiters.clone(),
            settings: self.settings,
            applying: InARow::default(),
            after_commit: self.after_commit.clone(),
            no_tombstones: !tombstones,
        });
        let intake = Intake {
            service: self.service.clone(),
            entity: entity.clone(),
            source: self.source.clone(),
            cloud_events: self.cloud_events.remove(entity.as_str()),
            optional: self.optional.iter().any(|name| name == entity.as_str()),
            positions: Positions::new(self.db.clone(), entity.clone()),
            replica: replica.clone(),
            recent,
            queue: queue.clone(),
            paused: self.paused.clone(),
            progress: progress.clone(),
            events: self.events.clone(),
            said: Seldom::default(),
            traces,
            settings: self.settings,
        };
        let stop = || self.stop.clone();
        let contents = batches.clone();
        let spawn = Spawn { tasks: &self.tasks, dead: &progress.dead_tasks, entity: &entity };
        let worker = Worker::new(batches, incoming, waiting, self.paused.clone()).run(stop());
        let (worker, intake) =
            (spawn.task("worker", worker), spawn.task("intake", intake.run(stop())));
        self.tasks.spawn(leave(replica, worker, intake));
        let reentry = reentry::run(
            dead_letters.clone(),
            progress.clone(),
            queue.clone(),
            self.settings,
            stop(),
        );
        spawn.task("re-entry", reentry);
        if revision != NO_REVISION {
            let (db, entity) = (self.db.clone(), entity.clone());
            let revisions = Revisions { db, entity, revision };
            let (progress, queue) = (progress.clone(), queue.clone());
            spawn.task("refill", refill::run(revisions, progress, queue, self.settings, stop()));
        }
        let ledger = self.settings.resync.enabled.then(|| {
            let ledger = Ledger::new(self.db.clone(), entity.clone());
            let parts = Parts {
                db: self.db.clone(),
                entity: entity.clone(),
                owner: owner.clone(),
                progress: progress.clone(),
                queue: queue.clone(),
                paused: self.paused.clone(),
                settings: self.settings.resync,
                contents,
                tombstones,
            };
            spawn.task("comparison", Resync::new(parts, ledger.clone()).run(stop()));
            ledger
        });
        Ok(Followed {
            entity,
            owner,
            progress,
            dead_letters,
            waiters,
            ledger,
            tombstones,
            runs,
            looks,
            queue,
        })
    }
}

/// Spawns the tasks of one followed entity, and notes their deaths.
struct Spawn<'a> {
    tasks: &'a TaskTracker,
    dead: &'a DeadTasks,
    entity: &'a EntityName,
}

impl Spawn<'_> {
    fn task(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.tasks.spawn(self.dead.clone().watch(self.entity.clone(), name, task))
    }
}

/// Leaves once nothing more is committed. A replica that has failed does not: others look after what it left.
async fn leave(replica: Replica, worker: JoinHandle<()>, intake: JoinHandle<()>) {
    if worker.await.is_err() || intake.await.is_err() {
        return;
    }
    let left = tokio::time::timeout(LEAVE_DEADLINE, replica.leave()).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::debug!("the database is away: other replicas will read the last changes again");
    }
}

/// The fields to ask the owner for. Empty, which means all, if the state type does not say which it reads, or if
/// they are too many to list.
fn asked_for<A: Apply>() -> &'static [&'static str] {
    shape::names::<A::State>().filter(|names| names.len() <= MAX_FIELDS).unwrap_or_default()
}
