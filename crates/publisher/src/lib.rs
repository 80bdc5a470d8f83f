//! For services that own an entity.
//!
//! ```text
//! business write ┐ one transaction
//! change log row ┘        relay ──► NATS JetStream {id, change}
//!                         sync API ◄── callbacks: current state, version
//! ```
//!
//! [`Publisher::record`] writes one row of the change log in the caller's own transaction; there
//! is no way to call it without one. The relay publishes pending rows, and marks each with
//! what the stream now holds. The sync API answers callbacks with state and version of one
//! snapshot.
//!
//! ```no_run
//! use nudge_protocol::{Change, EntityId, EntityName};
//! use nudge_publisher::Publisher;
//! use nudge_runtime::{Broker, BoxError, database::{Database, Durability}};
//! # async fn example(stop: tokio_util::sync::CancellationToken) -> Result<(), BoxError> {
//! let db = Database::open("sqlite:chargers.db", Durability::Full).await?;
//! let broker = Broker::connect("nats://127.0.0.1:4222", "chargers").await?;
//! let publisher = Publisher::open(&db, EntityName::new("charger")?).await?;
//! publisher.spawn_relay(&broker, stop);
//!
//! let mut tx = publisher.begin().await?;
//! sqlx::query("UPDATE charger SET in_use = 1 WHERE id = '42'").execute(&mut *tx).await?;
//! let version = publisher.record(&mut tx, &EntityId::new("42")?, Change::Updated).await?;
//! publisher.commit(tx).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`budget`] | how much subscribers may ask for, and who of them is next |
//! | [`capture`] | triggers that record changes whichever program makes them |
//! | [`change_log`] | one row per entity: its newest version, and what the stream holds for it |
//! | [`conditional`] | versions in headers: `If-Match`, `If-None-Match`, the headers of a write's answer |
//! | [`relay`] | change log → NATS, and repair when the broker lost something |
//! | [`sink`] | the port to the stream |
//! | [`stream`] | the stream's configuration, field by field |
//! | [`sync_api`] | the routes for callbacks, over one trait of the owner |
//! | `tombstones` | the routes for an operator: tombstones of entities that never existed |

mod allowance;
pub mod budget;
pub mod capture;
pub mod change_log;
pub mod conditional;
mod metrics;
pub mod relay;
pub mod sink;
pub mod stream;
pub mod sync_api;
mod tombstones;
mod traces;

use std::{collections::HashMap, marker::PhantomData, num::NonZeroU32, sync::Arc};

use nudge_protocol::{
    Change, EntityId, EntityName, Version, WriteToken, cloud_events::EventSource,
};
use nudge_runtime::{
    Broker, Database, Tx,
    alerts::{Alarm, Alerts},
    database::{Before, Migration, OpenError},
    traces::{Traces, note},
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use budget::Budget;
use capture::{CaptureError, Tables};
use change_log::ChangeLog;
pub use change_log::Recorded;
use metrics::Metrics;
pub use metrics::RelayHealth;
use sink::Sink;
pub use sync_api::Owner;
use traces::Written;

/// The handle of a [`Publisher`] whose service records its changes itself.
#[derive(Clone, Copy, Debug)]
pub enum Recording {}

/// The handle of a [`Publisher`] whose changes are recorded by triggers.
#[derive(Clone, Copy, Debug)]
pub enum Capturing {}

/// One kind of entity of one owner. Cloning is cheap and shares everything. `M` says how changes get into the change log:
/// [`Recording`] or [`Capturing`].
#[derive(Clone, Debug)]
pub struct Publisher<M = Recording> {
    log: ChangeLog,
    wake: Arc<Notify>,
    /// Where the relay of this process publishes.
    outlet: sink::Outlet,
    metrics: Metrics,
    budget: Budget,
    /// If notifications are CloudEvents, too.
    events: Option<EventSource>,
    /// The triggers that record the changes.
    capture: Option<Arc<capture::Capture>>,
    alarm: Alarm,
    written: Written,
    how: PhantomData<M>,
}

impl Publisher {
    /// Migrates the change log's tables in `db`, and returns a handle for `entity`.
    pub async fn open(db: &Database, entity: EntityName) -> Result<Self, OpenError> {
        db.migrate("publisher", change_log::MIGRATIONS).await?;
        let alarm = Alerts::default().of(&entity);
        let log = ChangeLog::new(db.clone(), entity);
        let wake = Arc::new(Notify::new());
        let metrics = Metrics::default();
        // Known before the relay has reached the broker: until then it would read 0.
        metrics.note_pending(&log).await;
        let outlet = sink::Outlet::default();
        Ok(Self {
            log,
            wake,
            outlet,
            metrics,
            budget: Budget::default(),
            events: None,
            capture: None,
            alarm,
            written: Written::default(),
            how: PhantomData,
        })
    }

    /// Migrates the tables of a service that are [captured](Self::capture): if there is anything to migrate,
    /// the triggers are removed first, since they name columns. Migrations may then add, drop and retype columns, and
    /// recreate tables. `capture` then installs the triggers again, and records every entity once.
    ///
    /// # Errors
    /// As [`Database::migrate`].
    pub async fn migrate(
        &self,
        component: &'static str,
        migrations: &[Migration],
    ) -> Result<(), OpenError> {
        let entity = self.log.entity().clone();
        let release: Before =
            Box::new(move |tx| Box::pin(async move { capture::release(tx, &entity).await }));
        self.log.db().migrate_after(component, migrations, Some(release)).await
    }

    /// Installs triggers that record every change of these tables, whichever program makes it: see
    /// [`capture`]. The returned handle cannot record: writers change their tables, and read the
    /// version in the same transaction with [`recorded`](Self::recorded).
    ///
    /// Call it at each start, after migrating the tables with [`migrate`](Self::migrate). It changes nothing if exactly
    /// these triggers exist; otherwise every entity is recorded once, since changes may have been
    /// missed. On PostgreSQL the role needs permission to create triggers and functions.
    ///
    /// # Errors
    /// If a table or a key cannot be captured, or the database refuses. Nothing has been changed then.
    ///
    /// ```no_run
    /// # use nudge_protocol::EntityName;
    /// # use nudge_publisher::{Publisher, capture::Tables};
    /// # use nudge_runtime::{BoxError, Database};
    /// # async fn example(db: &Database) -> Result<(), BoxError> {
    /// let tables = Tables::root("store", "id").child("store_menu", "store_id");
    /// let publisher = Publisher::open(db, EntityName::new("store")?).await?.capture(&tables).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Recording what triggers record would make two versions of one change. It does not compile:
    ///
    /// ```compile_fail,E0599
    /// # use nudge_protocol::{Change, EntityId};
    /// # use nudge_publisher::{Capturing, Publisher};
    /// # async fn example(publisher: &Publisher<Capturing>, tx: &mut nudge_runtime::Tx, id: &EntityId) {
    /// publisher.record(tx, id, Change::Updated).await;
    /// # }
    /// ```
    pub async fn capture(self, tables: &Tables) -> Result<Publisher<Capturing>, CaptureError> {
        let (db, alarm) = (self.log.db(), self.alarm.clone());
        let installed = capture::Capture::install(db, self.log.entity(), tables, alarm).await?;
        Ok(self.with(Some(installed)))
    }

    /// Records in the caller's transaction that an entity changed, and returns its new version.
    ///
    /// The version is `max(previous + 1, now in unix µs)`, taken while the row's lock is held, so
    /// versions of one entity rise in commit order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn record(
        &self,
        tx: &mut Tx,
        id: &EntityId,
        change: Change,
    ) -> Result<Version, sqlx::Error> {
        let versions = self.record_all(tx, &[(id.clone(), change)]).await?;
        versions.first().copied().ok_or(sqlx::Error::RowNotFound)
    }

    /// [`record`](Self::record) for many entities with one statement. The ids must be distinct;
    /// the versions come back in the same order.
    pub async fn record_all(
        &self,
        tx: &mut Tx,
        changes: &[(EntityId, Change)],
    ) -> Result<Vec<Version>, sqlx::Error> {
        let versions = self.log.record(tx, changes).await?;
        for ((id, _), version) in changes.iter().zip(&versions) {
            note(self.entity(), id, *version);
        }
        Ok(versions)
    }
}

impl Publisher<Capturing> {
    /// Whether changes of captured tables may be lost, because a trigger is missing or not as installed. A
    /// service then refuses writes with 503, and keeps answering reads and callbacks. The relay's task checks
    /// every [`capture::LOOK_INTERVAL`], and reinstalls them.
    pub fn is_capture_lost(&self) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.is_lost())
    }

    /// Reports that a change by this program to a captured table was not recorded: its version did not rise in
    /// the transaction. The triggers are then checked immediately.
    pub fn missed(&self) {
        if let Some(capture) = &self.capture {
            capture.missed();
        }
    }
}

impl<M> Publisher<M> {
    /// Removes the triggers that [`capture`](Publisher::capture) installed, if they are there. Changes
    /// are recorded with [`record`](Publisher::record) again.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn release(self) -> Result<Publisher, CaptureError> {
        capture::uninstall(self.log.db(), self.log.entity()).await?;
        Ok(self.with(None))
    }

    fn with<N>(self, capture: Option<Arc<capture::Capture>>) -> Publisher<N> {
        let Self { log, wake, outlet, metrics, budget, events, alarm, written, .. } = self;
        let how = PhantomData;
        Publisher { log, wake, outlet, metrics, budget, events, capture, alarm, written, how }
    }

    /// Publishes notifications that are CloudEvents 1.0 as well: headers in the binary mode of the NATS binding are added,
    /// with this source. Subscribers do not read them.
    pub fn cloud_events(self, source: EventSource) -> Self {
        Self { events: Some(source), ..self }
    }

    /// Tells an operator when the triggers of [`capture`](Publisher::capture), which must be called afterwards, are lost.
    pub fn alerts(self, alerts: &Alerts) -> Self {
        Self { alarm: alerts.of(self.entity()), ..self }
    }

    /// Limits how many entities all subscribers together may ask for each second, at all replicas of this owner together:
    /// see [`budget`]. `None` is no limit. The replicas share it while their relays run. Any budget lets everything come to its
    /// end; one below [`SMALL_BUDGET`](budget::SMALL_BUDGET) for each replica is warned of. To be called before
    /// [`spawn_relay`](Self::spawn_relay).
    ///
    /// ```
    /// # use std::num::NonZeroU32;
    /// # async fn example(publisher: nudge_publisher::Publisher) {
    /// let publisher = publisher.budget(NonZeroU32::new(2_000));
    /// # }
    /// ```
    pub fn budget(self, entities_per_second: Option<NonZeroU32>) -> Self {
        self.budget.limit(entities_per_second);
        self
    }

    /// Follows the traces of requests that change entities to their notifications, which then carry a `traceparent`. The
    /// changes of a transaction are those that [`record`](Publisher::record) recorded in it, or whose version was read with
    /// [`recorded`](Self::recorded). To be called before [`spawn_relay`](Self::spawn_relay).
    pub fn traces(self, traces: &Traces) -> Self {
        Self { written: Written::new(traces.clone()), ..self }
    }

    /// The kind of entity that this handle publishes.
    pub fn entity(&self) -> &EntityName {
        self.log.entity()
    }

    /// Begins a writing transaction on the owner's database.
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.log.db().begin().await
    }

    /// The same at READ COMMITTED, whatever the database's default: see [`Database::begin_read_committed`].
    pub async fn begin_read_committed(&self) -> Result<Tx, sqlx::Error> {
        self.log.db().begin_read_committed().await
    }

    /// Commits, and only then wakes the relay. Without the wake-up the change is still published,
    /// after at most [`relay::MAX_POLL_INTERVAL`].
    pub async fn commit(&self, tx: Tx) -> Result<(), sqlx::Error> {
        self.written.commits(self.entity());
        tx.commit().await?;
        self.wake();
        Ok(())
    }

    /// Wakes the relay, after transactions that were committed in another way.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What the change log holds for these ids, as this transaction sees it. An id that is absent
    /// was never recorded.
    pub async fn recorded(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, Recorded>, sqlx::Error> {
        let recorded = self.log.recorded(tx, ids).await?;
        for (id, row) in &recorded {
            note(self.entity(), id, row.version);
        }
        Ok(recorded)
    }

    /// The token that identifies a write, for the `Nudge-Token` header of its answer.
    pub fn token(&self, id: &EntityId, version: Version) -> WriteToken {
        WriteToken { entity: self.entity().clone(), id: id.clone(), version }
    }

    /// Publishes pending changes until `stop` is cancelled. Creates the stream, and recreates and
    /// refills it if it is deleted. Several relays at once, in one process or many, are harmless.
    pub fn spawn_relay(&self, broker: &Broker, stop: CancellationToken) -> JoinHandle<()> {
        self.spawn_relay_to(Arc::new(broker.clone()), stop)
    }

    /// [`spawn_relay`](Self::spawn_relay) to another sink: for tests and simulations.
    pub fn spawn_relay_to(&self, sink: Arc<dyn Sink>, stop: CancellationToken) -> JoinHandle<()> {
        let (log, wake, metrics) = (self.log.clone(), self.wake.clone(), self.metrics.clone());
        let (events, capture) = (self.events.clone(), self.capture.clone());
        let (dead, entity) = (metrics.dead_tasks.clone(), self.entity().clone());
        let (budget, db) = (self.budget.clone(), self.log.db().clone());
        self.outlet.set(sink.clone());
        let relay = relay::Relay::new(log, sink, wake, metrics, events, self.written.clone());
        tokio::spawn(async move {
            let capture = async {
                if let Some(capture) = capture {
                    capture.run(stop.clone()).await;
                }
            };
            let capture = dead.clone().watch(entity.clone(), "capture", capture);
            let replicas = budget.count_replicas(&db, &entity, stop.clone());
            let replicas = dead.clone().watch(entity.clone(), "replicas", replicas);
            tokio::join!(
                dead.watch(entity.clone(), "relay", relay.run(stop.clone())),
                capture,
                replicas
            );
        })
    }

    /// The routes under `/sync/v1/{entity}` for callbacks, and those under `/nudge/v1/tombstones/{entity}` for an
    /// operator.
    pub fn sync_api<O: Owner>(&self, owner: O) -> axum::Router {
        self.openapi_router(owner).into()
    }

    /// [`sync_api`](Self::sync_api) with its OpenAPI document, which is that of [`sync_api::openapi`].
    pub fn openapi_router<O: Owner>(&self, owner: O) -> OpenApiRouter {
        let desk = tombstones::Desk { log: self.log.clone(), metrics: self.metrics.clone() };
        let tombstones = tombstones::routes(self.entity()).with_state(desk);
        let (log, metrics, wake) = (self.log.clone(), self.metrics.clone(), self.wake.clone());
        let (outlet, counted) = (self.outlet.clone(), (metrics, self.budget.clone()));
        sync_api::router(log, owner, counted, wake, outlet).merge(tombstones)
    }

    /// The relay's health.
    pub fn health(&self) -> RelayHealth {
        self.metrics.health()
    }

    /// Adds the relay's metrics to a registry, labelled by entity.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.metrics.register(registry, self.entity());
        let label = [("entity".into(), self.entity().to_string().into())];
        self.budget.register(registry.sub_registry_with_labels(label.into_iter()));
        if let Some(capture) = &self.capture {
            let label = [("entity".into(), self.entity().to_string().into())];
            let registry = registry.sub_registry_with_labels(label.into_iter());
            registry.register(
                "nudge_capture_lost",
                "1 while triggers do not record all changes, so writes are refused; bad: 1",
                capture.gauge.clone(),
            );
            registry.register(
                "nudge_capture_mended",
                "Times that triggers were installed again because they were missing or altered; bad: any: somebody \
                 changes the captured tables",
                capture.mended.clone(),
            );
        }
    }
}
