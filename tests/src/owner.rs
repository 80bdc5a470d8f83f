//! A small owner of `thing`s: the real publisher on a real database, with faults on demand.

use std::{collections::HashMap, sync::Arc};

use axum::middleware::from_fn_with_state;
use nudge_protocol::{Change, EntityId, EntityName, Version, WriteToken, sync_api::MAX_BATCH_IDS};
use nudge_publisher::Publisher;
use nudge_runtime::{
    BoxError, Broker, Database, Tx, database::Migration, serve, set_sql, traces::Traces,
};
use parking_lot::Mutex;
use serde_json::{Value, json, value::RawValue};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Backup, TestDatabase,
    fault::{Fault, PAST_THE_FAULTS, Shared, interfere},
    free_port,
};

/// The kind of entity that tests use.
pub const ENTITY: &str = "thing";

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "things",
    sqlite: "CREATE TABLE thing (id TEXT PRIMARY KEY, body TEXT NOT NULL)",
    postgres: "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY, body TEXT NOT NULL)",
}];

/// See the module documentation. Stopped when dropped.
pub struct Owner {
    /// The publisher under test.
    pub publisher: Publisher,
    /// Its database.
    pub db: Database,
    address: std::net::SocketAddr,
    desk: Shared,
    running: Mutex<Running>,
    /// The test database behind it.
    pub database: Arc<TestDatabase>,
}

/// What stops when the owner goes away.
#[derive(Clone)]
struct Running {
    all: CancellationToken,
    relay: CancellationToken,
}

impl Running {
    fn new() -> Self {
        let all = CancellationToken::new();
        Self { relay: all.child_token(), all }
    }
}

struct Things(Database);

impl nudge_publisher::Owner for Things {
    type State = Box<RawValue>;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let sql = format!(
            "SELECT id, body FROM thing WHERE id IN {}",
            set_sql::strings(self.0.kind(), "$1")
        );
        let rows: Vec<(String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(serde_json::to_string(ids)?)
            .fetch_all(&mut **tx)
            .await?;
        let row =
            |(id, body): (String, String)| Ok((EntityId::new(&id)?, RawValue::from_string(body)?));
        rows.into_iter().map(row).collect()
    }
}

impl Owner {
    /// Starts an owner on a new database, with its relay.
    pub async fn start(broker: &Broker) -> Self {
        let owner = Self::start_silent().await;
        owner.second_relay(broker);
        owner
    }

    /// Starts an owner without a relay, so that only the test publishes.
    pub async fn start_silent() -> Self {
        Self::start_silent_of(ENTITY).await
    }

    /// Like [`start_silent`](Self::start_silent), for another kind of entity.
    pub async fn start_silent_of(entity: &str) -> Self {
        crate::logs();
        Self::start_silent_on(Arc::new(TestDatabase::new().await), entity).await
    }

    /// Follows the traces of its changes. Before a relay is started.
    pub fn traces(mut self, traces: &Traces) -> Self {
        self.publisher = self.publisher.clone().traces(traces);
        self
    }

    /// Starts an owner of this kind of entity on a database, without a relay.
    pub async fn start_silent_on(database: Arc<TestDatabase>, entity: &str) -> Self {
        let db = database.open_as_owner().await;
        db.migrate("things", MIGRATIONS).await.expect("the tables are made");
        let entity = EntityName::new(entity).expect("a good name");
        let publisher = Publisher::open(&db, entity).await.expect("the publisher opens");
        let (running, desk) = (Running::new(), Shared::default());
        let router = publisher.sync_api(Things(db.clone()));
        let router = router.layer(from_fn_with_state(desk.clone(), interfere));
        // It may go away and come back.
        let address = ([127, 0, 0, 1], free_port()).into();
        let listener = serve::bind(address).await.expect("a port");
        tokio::spawn(serve::serve(listener, router, running.all.clone()));
        Self { publisher, db, address, desk, running: Mutex::new(running), database }
    }

    /// A second relay on the same database.
    pub fn second_relay(&self, broker: &Broker) -> tokio::task::JoinHandle<()> {
        self.publisher.spawn_relay(broker, self.running().relay)
    }

    /// Where callbacks go.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the port, as a crash would: connections are refused until [`come_back`](Self::come_back).
    pub async fn go_away(&self) {
        self.running().all.cancel();
        let address = self.address;
        crate::eventually(
            "the port is free",
            || async move { TcpListener::bind(address).await.ok() },
        )
        .await;
    }

    /// Listens again on the same port. The relay does not come back; start another one with
    /// [`second_relay`](Self::second_relay).
    pub async fn come_back(&self) {
        let running = Running::new();
        *self.running.lock() = running.clone();
        let router = self.publisher.sync_api(Things(self.db.clone()));
        let router = router.layer(from_fn_with_state(self.desk.clone(), interfere));
        let listener = serve::bind(self.address).await.expect("the port is free again");
        tokio::spawn(serve::serve(listener, router, running.all));
    }

    /// Goes away, and comes back with its database as `work` left it, without a relay.
    async fn come_back_after<T>(mut self, work: impl AsyncFnOnce(&TestDatabase) -> T) -> (Self, T) {
        self.go_away().await;
        self.db.close().await;
        let done = work(&self.database).await;
        self.db = self.database.open_as_owner().await;
        let entity = self.publisher.entity().clone();
        self.publisher = Publisher::open(&self.db, entity).await.expect("the publisher opens");
        self.come_back().await;
        (self, done)
    }

    /// Backs up its database. Its relay is not started again.
    pub async fn back_up(self) -> (Self, Backup) {
        self.come_back_after(TestDatabase::back_up).await
    }

    /// Restores its database from a backup. Its relay is not started again.
    pub async fn put_back(self, backup: &Backup) -> Self {
        self.come_back_after(async |database| database.put_back(backup).await).await.0
    }

    fn running(&self) -> Running {
        self.running.lock().clone()
    }

    /// Writes a thing and records the change.
    pub async fn put(&self, id: &str, body: Value) -> WriteToken {
        self.put_all(&[(id, body)]).await.remove(0)
    }

    /// Writes things in one transaction.
    pub async fn put_all(&self, things: &[(&str, Value)]) -> Vec<WriteToken> {
        self.try_put_all(things).await.expect("things are written")
    }

    /// Like [`put_all`](Self::put_all), on a database that may fail.
    pub async fn try_put_all(
        &self,
        things: &[(&str, Value)],
    ) -> Result<Vec<WriteToken>, sqlx::Error> {
        let mut tx = self.publisher.begin().await?;
        let mut changes = Vec::new();
        for (id, body) in things {
            let sql = "INSERT INTO thing VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
            let query = sqlx::query(sql).bind(id.to_string()).bind(body.to_string());
            query.execute(&mut *tx).await?;
            changes.push((crate::id(id), Change::Updated));
        }
        let versions = self.publisher.record_all(&mut tx, &changes).await?;
        self.publisher.commit(tx).await?;
        let token =
            |((id, _), version): (&(EntityId, Change), Version)| self.publisher.token(id, version);
        Ok(changes.iter().zip(versions).map(token).collect())
    }

    /// Deletes a thing and records the change.
    pub async fn delete(&self, id: &str) -> WriteToken {
        self.try_delete(id).await.expect("the thing is deleted")
    }

    /// Like [`delete`](Self::delete), on a database that may fail.
    pub async fn try_delete(&self, id: &str) -> Result<WriteToken, sqlx::Error> {
        let mut tx = self.publisher.begin().await?;
        let query = sqlx::query("DELETE FROM thing WHERE id = $1").bind(id.to_owned());
        query.execute(&mut *tx).await?;
        let key = crate::id(id);
        let version = self.publisher.record(&mut tx, &key, Change::Deleted).await?;
        self.publisher.commit(tx).await?;
        Ok(self.publisher.token(&key, version))
    }

    /// Forgets that a thing ever existed, as an owner restored from an old backup would.
    pub async fn forget(&self, id: &str) {
        let mut tx = self.db.begin().await.expect("a transaction");
        for sql in ["DELETE FROM thing WHERE id = $1", "DELETE FROM nudge_change_log WHERE id = $1"]
        {
            let query = sqlx::query(sql).bind(id.to_owned());
            query.execute(&mut *tx).await.expect("the thing is forgotten");
        }
        tx.commit().await.expect("the transaction commits");
    }

    /// Every thing, ordered by ID.
    pub async fn all(&self) -> Vec<(String, String)> {
        self.try_all().await.expect("things are read")
    }

    /// Like [`all`](Self::all), on a database that may fail.
    pub async fn try_all(&self) -> Result<Vec<(String, String)>, sqlx::Error> {
        let query = sqlx::query_as("SELECT id, body FROM thing ORDER BY id");
        query.fetch_all(self.db.reader()).await
    }

    /// Its true answer for everything that it knows, by ID, in spite of any fault.
    pub async fn answers(&self) -> HashMap<String, Value> {
        let query = sqlx::query_as("SELECT id FROM nudge_change_log ORDER BY id");
        let ids: Vec<(String,)> = query.fetch_all(self.db.reader()).await.expect("ids are read");
        let mut answers = HashMap::new();
        for ids in ids.chunks(MAX_BATCH_IDS) {
            let ids: Vec<_> = ids.iter().map(|(id,)| id).collect();
            let url = format!("{}/sync/v1/{}/batch-get", self.url(), self.publisher.entity());
            let request = reqwest::Client::new().post(url).header(PAST_THE_FAULTS, "yes");
            let answer = request.json(&json!({"ids": ids})).send().await.expect("an answer");
            let mut answer: Value = answer.json().await.expect("JSON");
            let Value::Array(items) = answer["items"].take() else { panic!("no items: {answer}") };
            let id = |item: &Value| item["id"].as_str().expect("an id").to_owned();
            answers.extend(items.into_iter().map(|item| (id(&item), item)));
        }
        answers
    }

    /// Makes batch-gets fail: the rule gets the requested IDs and returns the fault, if any. For a probe of the owner,
    /// it gets no IDs.
    pub fn misbehave(&self, rule: impl Fn(&[String]) -> Option<Fault> + Send + Sync + 'static) {
        self.desk.lock().rule = Some(Arc::new(rule));
    }

    /// Ends all faults.
    pub fn behave(&self) {
        self.desk.lock().rule = None;
    }

    /// Number of batch-gets so far.
    pub fn calls(&self) -> usize {
        self.desk.lock().asked.len()
    }

    /// Number of probes so far.
    pub fn probes(&self) -> usize {
        self.desk.lock().probes
    }

    /// The IDs of each batch-get so far, newest last.
    pub fn asked(&self) -> Vec<Vec<String>> {
        self.desk.lock().asked.clone()
    }

    /// Number of batch-gets so far that asked for `id`.
    pub fn times_asked(&self, id: &str) -> usize {
        let asks = |ids: &&Vec<String>| ids.iter().any(|asked| asked == id);
        self.desk.lock().asked.iter().filter(asks).count()
    }

    /// The last true answer, for [`Fault::Replay`].
    pub fn last_answer(&self) -> Vec<u8> {
        self.desk.lock().last_answer.clone()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.running().all.cancel();
    }
}
