//! A small subscriber of `thing`s: the real kit around [`Keep`].

use std::{sync::Arc, time::Duration};

use nudge_protocol::WriteToken;
use nudge_runtime::{
    BoxError, Broker, Database,
    alerts::Alerts,
    database::{Kind, Migration},
    serve,
    traces::Traces,
};
use nudge_subscriber_kit::{CloudEvents, Settings, Subscriber, source::Source};
use nudge_testbed::database::execute;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use crate::keep::{Hold, Keep};
use crate::{Owner, PATIENCE, TestDatabase, eventually, owner::ENTITY};

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "copies",
    sqlite: "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT NOT NULL, body TEXT NOT NULL)",
    postgres: "CREATE TABLE copy (id TEXT COLLATE \"C\" PRIMARY KEY, version BIGINT NOT NULL, body TEXT NOT NULL)",
}];

type Hook = Arc<dyn Fn() + Send + Sync>;

/// Settings with short waits, so that tests of retries are quick.
pub fn quick() -> Settings {
    let mut settings = Settings::default();
    settings.retry.initial = Duration::from_millis(20);
    settings.retry.max = Duration::from_millis(200);
    settings.parked_retry.initial = Duration::from_millis(300);
    settings.parked_retry.max = Duration::from_secs(1);
    settings.second_look_after = Duration::from_millis(200);
    settings.fetch_timeout = Duration::from_secs(30);
    settings.queue.min_distance = Duration::from_millis(20);
    // It would hide what is lost otherwise.
    settings.resync.enabled = false;
    settings
}

/// Makes writes fail, such as `INSERT ON copy`, where this condition holds, with the error `no room`.
pub async fn no_room(database: &TestDatabase, write: &str, when: &str) {
    let sql = match database.kind() {
        Kind::Sqlite => format!(
            "CREATE TRIGGER no_room BEFORE {write} WHEN {when} BEGIN SELECT RAISE(ABORT, 'no room'); END"
        ),
        Kind::Postgres => format!(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'no room'; END $$; \
             CREATE TRIGGER no_room BEFORE {write} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION no_room()"
        ),
    };
    execute(database.url(), &sql).await;
}

/// Ends [`no_room`].
pub async fn room(database: &TestDatabase) {
    let sql = match database.kind() {
        Kind::Sqlite => "DROP TRIGGER no_room",
        Kind::Postgres => "DROP FUNCTION no_room CASCADE",
    };
    execute(database.url(), sql).await;
}

/// A read model on which nothing runs: its database, its handler and its settings.
#[derive(Clone)]
pub struct ReadModel {
    /// Limits and intervals.
    pub settings: Settings,
    /// Its database.
    pub database: Arc<TestDatabase>,
    name: String,
    events: Option<CloudEvents>,
    keep: Keep,
    after_commit: Option<Hook>,
    alerts: Alerts,
    traces: Traces,
}

impl ReadModel {
    /// An empty read model.
    pub async fn new() -> Self {
        Self::on(Arc::new(TestDatabase::new().await))
    }

    /// A read model on this database.
    pub fn on(database: Arc<TestDatabase>) -> Self {
        let (keep, events, after_commit, alerts, traces) = Default::default();
        let name = "copies".to_owned();
        Self { settings: quick(), database, name, events, keep, after_commit, alerts, traces }
    }

    /// With another name than all others.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Learns of changes from CloudEvents, instead of the owner's own stream.
    pub fn hears(self, events: CloudEvents) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Tells of what needs an operator.
    pub fn alerts(self, alerts: Alerts) -> Self {
        Self { alerts, ..self }
    }

    /// Follows the traces of changes.
    pub fn traces(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Calls `hook` after each commit, before anything is acknowledged.
    pub fn after_commit(&mut self, hook: impl Fn() + Send + Sync + 'static) {
        self.after_commit = Some(Arc::new(hook));
    }

    /// Makes `apply` fail for the IDs for which `refuse` returns an error.
    pub fn refuse(&self, refuse: impl Fn(&str) -> Option<BoxError> + Send + Sync + 'static) {
        self.keep.refuse(Some(Arc::new(refuse)));
    }

    /// Opens the database, with the handler's table in it.
    pub async fn open(&self) -> Database {
        let db = self.database.open().await;
        db.migrate("copies", MIGRATIONS).await.expect("the tables are made");
        db
    }

    /// Runs a subscriber of `owner` on it.
    pub async fn start(self, broker: &Broker, owner: &Owner) -> Copy {
        self.start_from(Arc::new(broker.clone()), owner).await
    }

    /// Like [`start`](Self::start), with another source of notifications.
    pub async fn start_from(self, source: Arc<dyn Source>, owner: &Owner) -> Copy {
        let db = self.open().await;
        let stop = CancellationToken::new();
        let mut builder = Subscriber::builder_from(&self.name, &db, source.clone())
            .follow(ENTITY, &owner.url(), self.keep.clone())
            .settings(self.settings)
            .alerts(&self.alerts)
            .traces(&self.traces);
        if let Some(hook) = self.after_commit.clone() {
            builder = builder.after_commit(move || hook());
        }
        if let Some(events) = self.events.clone() {
            builder = builder.cloud_events(ENTITY, events);
        }
        let subscriber = builder.start(stop.clone()).await.expect("the subscriber starts");
        let listener =
            serve::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve::serve(listener, subscriber.router(), stop.clone()));
        Copy { subscriber, db, source, model: self, address, stop }
    }
}

/// See the module documentation. Stopped when dropped.
pub struct Copy {
    /// The subscriber under test.
    pub subscriber: Subscriber,
    /// Its database.
    pub db: Database,
    /// Its source of notifications.
    pub source: Arc<dyn Source>,
    model: ReadModel,
    address: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Copy {
    /// Starts a subscriber of `owner` on a new database.
    pub async fn start(broker: &Broker, owner: &Owner) -> Self {
        ReadModel::new().await.start(broker, owner).await
    }

    /// Like [`start`](Self::start), with other settings.
    pub async fn start_with(broker: &Broker, owner: &Owner, settings: Settings) -> Self {
        let model = ReadModel { settings, ..ReadModel::new().await };
        model.start(broker, owner).await
    }

    /// A second replica on the same database, with its own handler.
    pub async fn replica(&self, broker: &Broker, owner: &Owner) -> Self {
        let mut model = self.model.clone();
        model.keep = Keep::default();
        model.start(broker, owner).await
    }

    /// Stops gracefully, and starts again on the same database.
    pub async fn restart(self, broker: &Broker, owner: &Owner) -> Self {
        self.stop().await.start(broker, owner).await
    }

    /// Its database.
    pub fn database(&self) -> &TestDatabase {
        &self.model.database
    }

    /// Begins a graceful shutdown, as on a signal.
    pub fn begin_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops gracefully.
    pub async fn stop(self) -> ReadModel {
        self.stop.cancel();
        self.subscriber.stopped().await;
        self.db.close().await;
        self.model.clone()
    }

    /// The address of `/nudge/v1/{path}`.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}/nudge/v1/{path}", self.address)
    }

    /// `GET /nudge/v1/{path}` as JSON, whatever the status.
    pub async fn get(&self, path: &str) -> Value {
        let response = reqwest::get(self.admin(path)).await.expect("an answer");
        response.json().await.expect("JSON")
    }

    /// The status of the one followed entity.
    pub async fn status(&self) -> Value {
        self.get("status").await["entities"][0].clone()
    }

    /// `POST /nudge/v1/{path}`. Returns the status.
    pub async fn post(&self, path: &str) -> u16 {
        let request = reqwest::Client::new().post(self.admin(path)).timeout(PATIENCE);
        request.send().await.expect("an answer").status().as_u16()
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        crate::metrics::scrape(self.address).await
    }

    /// The value of a metric of the one followed entity.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.metrics().await;
        let series = format!("{name}{{entity=\"{ENTITY}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    }

    /// Waits until the dead-letter table has exactly `count` rows, including parked ones.
    pub async fn dead_letters(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} rows in the dead-letter table"), || async {
            let items = self.get("dead-letters?limit=1000").await["items"].take();
            let Value::Array(items) = items else {
                return None;
            };
            (items.len() == count).then_some(items)
        })
        .await
    }

    /// Makes `apply` wait with its transaction open.
    pub fn hold(&self) -> Hold {
        self.model.keep.hold()
    }

    /// Makes `apply` fail for the IDs for which `refuse` returns an error.
    pub fn refuse(&self, refuse: impl Fn(&str) -> Option<BoxError> + Send + Sync + 'static) {
        self.model.refuse(refuse);
    }

    /// Makes `apply` work again.
    pub fn accept(&self) {
        self.model.keep.refuse(None);
    }

    /// Makes it impossible to read what is kept of this thing.
    pub fn unreadable(&self, id: &str) {
        self.model.keep.unreadable(id);
    }

    /// Every (id, version) that reached `apply`, in order. Includes work that was rolled back.
    pub fn applied(&self) -> Vec<(String, u64)> {
        self.model.keep.applied()
    }

    /// Every copy, ordered by ID.
    pub async fn all(&self) -> Vec<(String, String)> {
        copies(&self.db).await.expect("copies are read")
    }

    /// One copy's body.
    pub async fn body(&self, id: &str) -> Option<Value> {
        let query = sqlx::query_as("SELECT body FROM copy WHERE id = $1").bind(id.to_owned());
        let row: Option<(String,)> = query.fetch_optional(self.db.reader()).await.expect("read");
        row.map(|(body,)| serde_json::from_str(&body).expect("JSON"))
    }

    /// Waits until a write is applied.
    pub async fn wait(&self, token: &WriteToken) {
        eventually(&format!("{token} is applied"), || async {
            let path = format!(
                "applied/{}/{}",
                token.entity,
                nudge_protocol::subject::encode_token(&token.id)
            );
            let applied = self.get(&path).await;
            (applied["version"].as_u64()? >= token.version.get()).then_some(())
        })
        .await;
    }

    /// Waits until the copies are equal to the owner's things.
    pub async fn converged(&self, owner: &Owner) {
        let converging = eventually("the copies equal the owner's things", || async {
            (self.all().await == owner.all().await).then_some(())
        });
        let slow = tokio::time::sleep(PATIENCE * 3 / 4);
        tokio::pin!(converging);
        tokio::select! {
            () = &mut converging => return,
            () = slow => {}
        }
        // This fails; print what is known.
        let (copies, things) = (self.all().await, owner.all().await);
        let missing = things.iter().filter(|thing| !copies.contains(thing)).take(5);
        let extra = copies.iter().filter(|copy| !things.contains(copy)).take(5);
        let (missing, extra) = (missing.collect::<Vec<_>>(), extra.collect::<Vec<_>>());
        println!("missing {missing:?}, extra {extra:?}, {:#}", self.status().await);
        converging.await;
    }

    /// Waits until it has stored that everything is handled. Before, a difference counts as in flight, or is noticed at once,
    /// since what was applied lately is remembered.
    pub async fn handled(&self, owner: &Owner) {
        eventually("everything is handled", || async {
            let query = sqlx::query_as("SELECT position FROM nudge_intake");
            let (position,): (i64,) = query.fetch_one(self.db.reader()).await.ok()?;
            let (last,): (i64,) = sqlx::query_as("SELECT max(published_seq) FROM nudge_change_log")
                .fetch_one(owner.db.reader())
                .await
                .ok()?;
            (position == last).then_some(())
        })
        .await;
    }

    /// Waits until no work is queued or in progress and the broker has nothing left to deliver.
    pub async fn quiet(&self) {
        eventually("the subscriber is quiet", || async {
            let status = self.status().await;
            let idle = ["queued", "processing", "stream_pending"].iter().all(|f| status[*f] == 0);
            (idle && status["connected"] == true).then_some(())
        })
        .await;
    }
}

/// Every copy, ordered by ID.
pub(crate) async fn copies(db: &Database) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT id, body FROM copy ORDER BY id").fetch_all(db.reader()).await
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
