//! Shared by these tests: reading the change log and the stream.

use std::{collections::BTreeMap, pin::Pin};

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::Stream,
};
use futures_util::TryStreamExt;
use nudge_protocol::{EntityName, subject};
use nudge_publisher::{
    Publisher,
    sink::{self, Asking, Looked, Sink, Stored, StreamInfo},
    stream::config,
};
use nudge_runtime::{
    Broker, Database,
    database::{Durability, Kind},
};
use nudge_tests::{Nats, Owner, Postgres, eventually, owner::ENTITY};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const STREAM: &str = "CHANGES_thing";
/// Maximum number of messages that a test reads from a stream.
const MAX_MESSAGES: usize = 10_000;
/// A server's configuration: everyone may create a stream, publish and purge, and nobody may alter a stream.
pub(crate) const NO_RIGHT_TO_ALTER: &str = "authorization { users = [ { user: owner, password: o, \
    permissions: { publish: { deny: \"$JS.API.STREAM.UPDATE.>\" } } } ] }\nno_auth_user: owner";
const ONE_HOUR_MICROS: i64 = 3_600_000_000;

pub(crate) fn thing() -> EntityName {
    EntityName::new(ENTITY).unwrap()
}

/// A row of the change log, as the relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    pub(crate) published_version: u64,
    pub(crate) published_seq: u64,
}

/// The change log of things, by id.
pub(crate) async fn rows(db: &Database) -> BTreeMap<String, Row> {
    let sql = "SELECT id, version, published_version, published_seq FROM nudge_change_log \
               WHERE entity = 'thing'";
    let rows: Vec<(String, i64, i64, i64)> =
        sqlx::query_as(sql).fetch_all(db.reader()).await.unwrap();
    let row = |(id, version, published_version, published_seq): (_, i64, i64, i64)| {
        let row = Row {
            version: version as u64,
            published_version: published_version as u64,
            published_seq: published_seq as u64,
        };
        (id, row)
    };
    rows.into_iter().map(row).collect()
}

/// The change log's row of one thing.
pub(crate) async fn row(db: &Database, id: &str) -> Row {
    rows(db).await.remove(id).expect("a row of the change log")
}

/// Restarts the server, and waits until this connection to it is made again.
///
/// A relay that starts before that begins anew when the connection is counted, and publishes some once more: harmless,
/// but not for a test that counts what is published.
pub(crate) async fn restart_under(nats: &mut Nats, broker: &Broker) {
    let mut connections = broker.connections();
    let before = *connections.borrow_and_update();
    nats.restart().await;
    connections.wait_for(|now| *now > before).await.expect("the connection is kept");
}

/// Waits until the relay has nothing left to publish.
pub(crate) async fn published(db: &Database) {
    eventually("every change is published", || async {
        let pending = |row: &Row| row.version != row.published_version;
        (!rows(db).await.values().any(pending)).then_some(())
    })
    .await;
}

/// How many publishes of this relay were not acknowledged.
pub(crate) fn publish_failures(publisher: &Publisher) -> u64 {
    let mut registry = Registry::default();
    publisher.register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let line = text.lines().find(|line| line.starts_with("nudge_relay_publish_failures_total"));
    let number = line.and_then(|line| line.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).expect("a number of publish failures")
}

/// Runs a statement on the owner's database behind the publisher's back.
pub(crate) async fn execute(db: &Database, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Makes every change look older than those that are published again on each connection.
pub(crate) async fn age(db: &Database) {
    let mut tx = db.begin().await.unwrap();
    let sql = "UPDATE nudge_change_log SET changed_at = changed_at - $1";
    let query = sqlx::query(sql).bind(ONE_HOUR_MICROS);
    query.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// The owner's database as another program opens it.
pub(crate) async fn another_program(db: &Database) -> Database {
    let sql = db.pick(
        "SELECT file FROM pragma_database_list WHERE name = 'main'",
        "SELECT current_database()::text",
    );
    let (name,): (String,) = sqlx::query_as(sql).fetch_one(db.reader()).await.unwrap();
    let url = match db.kind() {
        Kind::Sqlite => format!("sqlite:{name}"),
        Kind::Postgres => Postgres::shared().await.database_url(&name),
    };
    Database::open(&url, Durability::Refillable).await.unwrap()
}

/// A relay that can be stopped. It stops when this is dropped.
pub(crate) struct Relay {
    pub(crate) publisher: Publisher,
    running: tokio::task::JoinHandle<()>,
    stop: DropGuard,
}

impl Relay {
    /// Starts a relay as a separate program would: no commit wakes it.
    pub(crate) async fn start(db: &Database, broker: &Broker) -> Self {
        let db = another_program(db).await;
        let publisher = Publisher::open(&db, thing()).await.unwrap();
        let stop = CancellationToken::new();
        let running = publisher.spawn_relay(broker, stop.clone());
        Self { publisher, running, stop: stop.drop_guard() }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }
}

/// A notification in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Message {
    /// The ID that the subject names.
    pub(crate) fn id(&self) -> String {
        let id = subject::decode_subject(&thing(), &self.subject);
        id.expect("a subject that names an id").to_string()
    }

    /// The version in `Nudge-Version`.
    pub(crate) fn version(&self) -> u64 {
        let header = self.headers.iter().find(|(name, _)| name == "Nudge-Version");
        header.expect("a version header").1.parse().unwrap()
    }

    /// The kind of change in the body.
    pub(crate) fn change(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["change"].as_str().unwrap().to_owned()
    }
}

/// The stream of things, once it exists.
pub(crate) async fn stream(nats: &Nats) -> Stream {
    let jetstream = nats.jetstream().await;
    eventually("the stream is there", || async { jetstream.get_stream(STREAM).await.ok() }).await
}

/// Every message in the stream, oldest first.
pub(crate) async fn messages(nats: &Nats) -> Vec<Message> {
    let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let consumer = stream(nats).await.create_consumer(config).await.unwrap();
    let fetch = consumer.fetch().max_messages(MAX_MESSAGES);
    let messages = fetch.messages().await.unwrap();
    let read = |message: async_nats::jetstream::Message| {
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let header = |(name, values): (&async_nats::HeaderName, &Vec<_>)| {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            (name.to_string(), values.join(","))
        };
        Message {
            subject: message.subject.to_string(),
            seq: message.info().unwrap().stream_sequence,
            headers: headers.map(header).collect(),
            body: String::from_utf8(message.payload.to_vec()).unwrap(),
        }
    };
    messages.map_ok(read).try_collect().await.unwrap()
}

/// The only message of an ID. While it is being replaced, a reader may briefly see none or two.
pub(crate) async fn message(nats: &Nats, id: &str) -> Message {
    eventually("exactly one message of the id", || async {
        let mut all = messages(nats).await;
        all.retain(|message| message.id() == id);
        if all.len() == 1 { all.pop() } else { None }
    })
    .await
}

/// Waits until the stream holds every entity of the change log, including tombstones, in its newest version and nothing
/// else, and everything is marked.
pub(crate) async fn shown(nats: &Nats, db: &Database) {
    eventually("the stream shows the change log", || async {
        let rows = rows(db).await;
        let clean = rows.values().all(|row| row.version == row.published_version);
        let logged = rows.iter().map(|(id, row)| (id.clone(), row.version));
        let messages = messages(nats).await;
        let shown = messages.iter().map(|message| (message.id(), message.version()));
        (clean && shown.collect::<BTreeMap<_, _>>() == logged.collect()).then_some(())
    })
    .await;
}

/// Creates the stream as a person might, who can then empty it. The publisher's own stream cannot be emptied, nor one
/// that the publisher may alter.
pub(crate) async fn purgeable(nats: &Nats) {
    let mut config = config(&thing());
    config.deny_purge = false;
    nats.jetstream().await.create_stream(config).await.unwrap();
}

/// Removes an ID's message from a stream that is [`purgeable`].
pub(crate) async fn take_out(nats: &Nats, id: &str) {
    let subject = subject::subject(&thing(), &nudge_tests::id(id));
    assert_eq!(stream(nats).await.purge().filter(subject).await.unwrap().purged, 1);
}

/// The sequence of the stream's newest message.
pub(crate) async fn last_seq(nats: &Nats) -> u64 {
    stream(nats).await.get_info().await.unwrap().state.last_sequence
}

/// An owner of these things, each in its first version and published through the owner's relay.
pub(crate) async fn owner_of(broker: &Broker, ids: &[&str]) -> Owner {
    let owner = Owner::start(broker).await;
    let things: Vec<_> = ids.iter().map(|id| (*id, serde_json::json!({}))).collect();
    owner.put_all(&things).await;
    published(&owner.db).await;
    compared(&owner.publisher).await;
    owner
}

/// Waits until the relay has compared the stream with the log; from then on it only publishes.
pub(crate) async fn compared(publisher: &Publisher) {
    eventually("the stream is compared with the log", || async {
        let health = publisher.health();
        (health.connected && !health.comparing).then_some(())
    })
    .await;
}

/// A request to the broker before which something can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The stream's configuration is restored.
    Mend,
    /// The messages beyond a sequence are read.
    ReadOn,
}

type Happening = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection to the broker on which something happens once, before one of the relay's requests.
pub(crate) struct Interrupted {
    broker: Broker,
    next: Mutex<Option<(Step, Happening)>>,
    connections: watch::Sender<u64>,
}

impl Interrupted {
    pub(crate) fn new(broker: Broker) -> Self {
        Self { broker, next: Mutex::default(), connections: watch::Sender::new(1) }
    }

    /// Lets this happen before the next request of this kind.
    pub(crate) fn before(&self, step: Step, what: impl Future<Output = ()> + Send + 'static) {
        *self.next.lock() = Some((step, Box::pin(what)));
    }

    /// Whether it has begun.
    pub(crate) fn is_done(&self) -> bool {
        self.next.lock().is_none()
    }

    /// The number of connections, which the test can raise.
    pub(crate) fn connections(&self) -> watch::Sender<u64> {
        self.connections.clone()
    }

    async fn meet(&self, step: Step) {
        let next = self.next.lock().take_if(|(before, _)| *before == step);
        if let Some((_, happening)) = next {
            happening.await;
        }
    }
}

impl Sink for Interrupted {
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, StreamInfo> {
        self.broker.ensure(entity)
    }

    fn mend<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Option<String>> {
        Box::pin(async move {
            self.meet(Step::Mend).await;
            self.broker.mend(entity).await
        })
    }

    fn publish<'a>(&'a self, entity: &'a EntityName, message: sink::Message) -> Asking<'a, u64> {
        self.broker.publish(entity, message)
    }

    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>> {
        Box::pin(async move {
            self.meet(Step::ReadOn).await;
            self.broker.beyond(entity, sequence, limit).await
        })
    }

    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>> {
        self.broker.look_up(entity, subjects)
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    fn is_connected(&self) -> bool {
        Sink::is_connected(&self.broker)
    }
}
