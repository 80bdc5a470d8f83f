//! A small owner of `thing`s: the real publisher over a real database, with faults to order.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
};
use nudge_protocol::{Change, EntityId, EntityName, Version, WriteToken};
use nudge_publisher::Publisher;
use nudge_runtime::{
    BoxError, Broker, Database, Tx,
    database::{Durability, Migration},
    serve, set_sql,
};
use serde_json::{Value, value::RawValue};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The kind of entity that tests use.
pub const ENTITY: &str = "thing";

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "things",
    sqlite: "CREATE TABLE thing (id TEXT PRIMARY KEY, body TEXT NOT NULL)",
    postgres: "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY, body TEXT NOT NULL)",
}];

/// What the owner's sync API does instead of answering.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status, and `Retry-After` if given.
    Status(u16, Option<u64>),
    /// Answers 200 with these bytes.
    Body(&'static str),
    /// Answers the first half of the true answer, and cuts the connection.
    Half,
    /// Answers late.
    Delay(Duration),
    /// Makes its answer, and gives it once the token is cancelled: it may be old by then.
    Until(CancellationToken),
    /// Never answers.
    Hang,
    /// Answers, as stale replicas and caches do, what is given here.
    Replay(Vec<u8>),
}

type Rule = Arc<dyn Fn(&[String]) -> Option<Fault> + Send + Sync>;

/// What goes wrong, and what was seen.
#[derive(Clone, Default)]
struct Desk {
    rule: Arc<Mutex<Option<Rule>>>,
    calls: Arc<AtomicUsize>,
    asked: Arc<Mutex<VecDeque<Vec<String>>>>,
    last_answer: Arc<Mutex<Vec<u8>>>,
}

/// See the module's description. Stopped when dropped.
pub struct Owner {
    /// The publisher under test.
    pub publisher: Publisher,
    /// Its database.
    pub db: Database,
    address: std::net::SocketAddr,
    desk: Desk,
    relay: CancellationToken,
    stop: CancellationToken,
    _dir: Arc<TempDir>,
}

struct Things(Database);

impl nudge_publisher::Owner for Things {
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
        owner.publisher.spawn_relay(broker, owner.relay.clone());
        owner
    }

    /// Starts an owner without a relay: what it publishes is up to the test.
    pub async fn start_silent() -> Self {
        Self::start_silent_of(ENTITY).await
    }

    /// [`start_silent`](Self::start_silent) for another kind of entity.
    pub async fn start_silent_of(entity: &str) -> Self {
        crate::logs();
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let url = format!("sqlite:{}", dir.path().join("owner.db").display());
        let db = Database::open(&url, Durability::Refillable)
            .await
            .expect("the database opens");
        db.migrate("things", MIGRATIONS)
            .await
            .expect("the tables are made");
        let entity = EntityName::new(entity).expect("a good name");
        let publisher = Publisher::open(&db, entity)
            .await
            .expect("the publisher opens");
        let (stop, desk) = (CancellationToken::new(), Desk::default());
        let router = publisher.sync_api(Things(db.clone()));
        let router = router.layer(from_fn_with_state(desk.clone(), interfere));
        let listener = serve::bind("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve::serve(listener, router, stop.clone()));
        Self {
            publisher,
            db,
            address,
            desk,
            relay: stop.child_token(),
            stop,
            _dir: dir,
        }
    }

    /// A second relay on the same database.
    pub fn second_relay(&self, broker: &Broker) -> tokio::task::JoinHandle<()> {
        self.publisher.spawn_relay(broker, self.relay.clone())
    }

    /// Where callbacks go.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes the port away, as a crash would: connections are refused until [`come_back`](Self::come_back).
    pub async fn go_away(&mut self) {
        self.stop.cancel();
        let address = self.address;
        crate::eventually("the port is free", || async move {
            TcpListener::bind(address).await.ok()
        })
        .await;
    }

    /// Listens again on the same port. The relay does not come back with it: start another with
    /// [`second_relay`](Self::second_relay).
    pub async fn come_back(&mut self) {
        self.stop = CancellationToken::new();
        self.relay = self.stop.child_token();
        let router = self.publisher.sync_api(Things(self.db.clone()));
        let router = router.layer(from_fn_with_state(self.desk.clone(), interfere));
        let listener = serve::bind(self.address)
            .await
            .expect("the port is free again");
        tokio::spawn(serve::serve(listener, router, self.stop.clone()));
    }

    /// Writes a thing and records the change.
    pub async fn put(&self, id: &str, body: Value) -> WriteToken {
        self.put_all(&[(id, body)]).await.remove(0)
    }

    /// Writes things in one transaction.
    pub async fn put_all(&self, things: &[(&str, Value)]) -> Vec<WriteToken> {
        let mut tx = self.publisher.begin().await.expect("a transaction");
        let mut changes = Vec::new();
        for (id, body) in things {
            let sql = "INSERT INTO thing VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
            let query = sqlx::query(sql).bind(id.to_string()).bind(body.to_string());
            query.execute(&mut *tx).await.expect("the thing is written");
            changes.push((crate::id(id), Change::Updated));
        }
        let versions = self
            .publisher
            .record_all(&mut tx, &changes)
            .await
            .expect("changes are recorded");
        self.publisher
            .commit(tx)
            .await
            .expect("the transaction commits");
        let token =
            |((id, _), version): (&(EntityId, Change), Version)| self.publisher.token(id, version);
        changes.iter().zip(versions).map(token).collect()
    }

    /// Deletes a thing and records that.
    pub async fn delete(&self, id: &str) -> WriteToken {
        let mut tx = self.publisher.begin().await.expect("a transaction");
        let query = sqlx::query("DELETE FROM thing WHERE id = $1").bind(id.to_owned());
        query.execute(&mut *tx).await.expect("the thing is deleted");
        let key = crate::id(id);
        let version = self
            .publisher
            .record(&mut tx, &key, Change::Deleted)
            .await
            .expect("recorded");
        self.publisher
            .commit(tx)
            .await
            .expect("the transaction commits");
        self.publisher.token(&key, version)
    }

    /// Forgets that a thing ever was, as an owner restored from an old backup would.
    pub async fn forget(&self, id: &str) {
        let mut tx = self.db.begin().await.expect("a transaction");
        for sql in [
            "DELETE FROM thing WHERE id = $1",
            "DELETE FROM nudge_change_log WHERE id = $1",
        ] {
            let query = sqlx::query(sql).bind(id.to_owned());
            query
                .execute(&mut *tx)
                .await
                .expect("the thing is forgotten");
        }
        tx.commit().await.expect("the transaction commits");
    }

    /// Every thing there is, in the order of ids.
    pub async fn all(&self) -> Vec<(String, String)> {
        let query = sqlx::query_as("SELECT id, body FROM thing ORDER BY id");
        query
            .fetch_all(self.db.reader())
            .await
            .expect("things are read")
    }

    /// Makes batch-gets go wrong: the rule gets the ids asked for, and says how, or not at all.
    /// Probes of the owner's health are given no ids.
    pub fn misbehave(&self, rule: impl Fn(&[String]) -> Option<Fault> + Send + Sync + 'static) {
        *self.desk.rule.lock().expect("not poisoned") = Some(Arc::new(rule));
    }

    /// Ends all misbehaviour.
    pub fn behave(&self) {
        *self.desk.rule.lock().expect("not poisoned") = None;
    }

    /// Batch-gets answered or failed so far.
    pub fn calls(&self) -> usize {
        self.desk.calls.load(Ordering::SeqCst)
    }

    /// The ids of each batch-get so far, newest last.
    pub fn asked(&self) -> Vec<Vec<String>> {
        self.desk
            .asked
            .lock()
            .expect("not poisoned")
            .iter()
            .cloned()
            .collect()
    }

    /// Batch-gets that asked for `id` so far.
    pub fn times_asked(&self, id: &str) -> usize {
        let asked = self.desk.asked.lock().expect("not poisoned");
        asked
            .iter()
            .filter(|ids| ids.iter().any(|asked| asked == id))
            .count()
    }

    /// The last true answer, for [`Fault::Replay`].
    pub fn last_answer(&self) -> Vec<u8> {
        self.desk.last_answer.lock().expect("not poisoned").clone()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn interfere(State(desk): State<Desk>, request: Request, next: Next) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let is_batch = parts.uri.path().ends_with("/batch-get");
    let ids = if is_batch { ids_of(&body) } else { Vec::new() };
    if is_batch {
        desk.calls.fetch_add(1, Ordering::SeqCst);
        desk.asked
            .lock()
            .expect("not poisoned")
            .push_back(ids.clone());
    }
    let rule = desk.rule.lock().expect("not poisoned").clone();
    let fault = rule.and_then(|rule| rule(&ids));
    let answer = async {
        let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 26).await.unwrap_or_default();
        if is_batch && parts.status.is_success() {
            *desk.last_answer.lock().expect("not poisoned") = body.to_vec();
        }
        (parts, body)
    };
    let whole = |(parts, body): (_, Bytes)| Response::from_parts(parts, Body::from(body));
    match fault {
        None => whole(answer.await),
        Some(Fault::Delay(delay)) => {
            // The answer is made first and arrives late: it may be old by then.
            let answer = answer.await;
            tokio::time::sleep(delay).await;
            whole(answer)
        }
        Some(Fault::Until(gate)) => {
            let answer = answer.await;
            gate.cancelled().await;
            whole(answer)
        }
        Some(Fault::Half) => {
            let (parts, body) = answer.await;
            let half = body.slice(..body.len() / 2);
            let cut = std::io::Error::other("cut");
            let stream = futures_util::stream::iter([Ok(half), Err(cut)]);
            Response::from_parts(parts, Body::from_stream(stream))
        }
        Some(fault) => instead(fault).await,
    }
}

async fn instead(fault: Fault) -> Response<Body> {
    let json = |status: u16, body: Vec<u8>| {
        let response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
        response
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
    };
    match fault {
        Fault::Status(status, None) => json(status, Vec::new()),
        Fault::Status(status, Some(seconds)) => Response::builder()
            .status(status)
            .header(header::RETRY_AFTER, seconds)
            .body(Body::empty()),
        Fault::Body(body) => json(200, body.as_bytes().to_vec()),
        Fault::Replay(body) => json(200, body),
        Fault::Hang | Fault::Half | Fault::Delay(_) | Fault::Until(_) => {
            std::future::pending().await
        }
    }
    .expect("a good response")
}

fn ids_of(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let ids = body["ids"].as_array().cloned().unwrap_or_default();
    ids.iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}
