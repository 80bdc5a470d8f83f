//! The hops that cannot be avoided, with nothing around them: a commit of two tables, a read of the pending row, a publish and
//! its acknowledgement, a pull, a callback for all keys of a batch, a guarded write of two tables, an acknowledgement. No key is
//! retried, no lost message noticed, nothing coalesced, nobody stopped gracefully. It is the limit.

use std::{sync::Arc, time::Instant};

use async_nats::jetstream::{
    AckKind, Context, Message,
    consumer::AckPolicy,
    context::{PublishAckFuture, PublishError},
    stream::Stream,
};
use axum::{Json, Router, extract::State, routing::post};
use futures_util::{StreamExt, TryStreamExt, stream::iter};
use nudge_runtime::{BoxError, Database, database::Durability, set_sql::strings};
use nudge_testbed::TestDatabase;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use sqlx::AssertSqlSafe;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::task::AbortOnDropHandle;

use super::{BATCH, Item, ReadModel, consumer, messages, since};
use crate::{
    thing::{id, notification},
    world::{MIGRATIONS, World, put},
};

const STREAM: &str = "BARE";
/// Callbacks in progress at a time: as many as the kit has.
const CALLBACKS: usize = 4;
/// Things written in one transaction, and publishes whose acknowledgements are awaited together.
const AT_A_TIME: usize = 1_000;

/// An owner without any of ours.
pub(crate) struct Bare {
    db: Database,
    url: String,
    jetstream: Context,
    stream: Stream,
    wake: Arc<Notify>,
    _server: AbortOnDropHandle<()>,
    _database: TestDatabase,
}

#[derive(Serialize, Deserialize)]
struct Request {
    ids: Vec<String>,
}

#[derive(Serialize)]
struct Sent {
    id: String,
    version: i64,
    state: Box<RawValue>,
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
}

impl Bare {
    pub(crate) async fn start(world: &World) -> Result<Self, BoxError> {
        let database = world.database().await;
        let db = Database::open(database.url(), Durability::Full).await?;
        db.migrate("things", MIGRATIONS).await?;
        let text = db.pick("TEXT", "TEXT COLLATE \"C\"");
        for sql in [
            format!(
                "CREATE TABLE log (id {text} PRIMARY KEY, version BIGINT NOT NULL, pending BIGINT NOT NULL)"
            ),
            "CREATE INDEX pending ON log (id) WHERE pending = 1".to_owned(),
        ] {
            db.write(sqlx::query(AssertSqlSafe(sql))).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/batch-get", listener.local_addr()?);
        let router = Router::new().route("/batch-get", post(batch_get)).with_state(db.clone());
        let server = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        let jetstream = world.jetstream().await;
        let stream = World::peers_stream(&jetstream, STREAM).await?;
        let server = AbortOnDropHandle::new(server);
        let wake = Arc::new(Notify::new());
        Ok(Self { db, url, jetstream, stream, wake, _server: server, _database: database })
    }

    /// Commits changes to things and to the log.
    async fn commit(&self, ids: &[String], edition: i64) -> Result<(), BoxError> {
        let mut tx = self.db.begin().await?;
        put(&mut tx, ids, edition).await?;
        let set = strings(self.db.kind(), "$1");
        let sql = format!(
            "INSERT INTO log (id, version, pending) SELECT id, {edition}, 1 FROM thing WHERE id IN {set} \
             ON CONFLICT (id) DO UPDATE SET version = log.version + 1, pending = 1"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(json!(ids).to_string()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Publishes whatever is pending.
    async fn relay(&self) -> Result<(), BoxError> {
        let sql = "SELECT id, version FROM log WHERE pending = 1";
        let pending: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(self.db.reader()).await?;
        let mut acknowledged = Vec::new();
        for (id, _) in &pending {
            acknowledged.push(self.publish(id).await?);
        }
        for acknowledged in acknowledged {
            acknowledged.await?;
        }
        for (id, version) in pending {
            let sql = "UPDATE log SET pending = 0 WHERE id = $1 AND version = $2";
            self.db.write(sqlx::query(sql).bind(id).bind(version)).await?;
        }
        Ok(())
    }

    async fn publish(&self, id: &str) -> Result<PublishAckFuture, PublishError> {
        self.jetstream.publish(format!("{STREAM}.{id}"), notification(id).into()).await
    }

    /// One message for each thing.
    pub(crate) async fn fill(&self, count: usize) -> Result<(), BoxError> {
        let ids: Vec<_> = (0..count).map(id).collect();
        for ids in ids.chunks(AT_A_TIME) {
            self.commit(ids, 1).await?;
        }
        for ids in ids.chunks(AT_A_TIME) {
            let publish = async |id: &String| Ok::<_, BoxError>(self.publish(id).await?.await?);
            iter(ids).map(publish).buffered(AT_A_TIME).try_collect::<Vec<_>>().await?;
        }
        self.db.write(sqlx::query("UPDATE log SET pending = 0")).await?;
        Ok(())
    }

    /// How many things a second a subscriber applies.
    pub(crate) async fn drain(&self, world: &World, count: usize) -> Result<f64, BoxError> {
        let model = ReadModel::new(world).await?;
        let consumer = consumer(&self.stream, AckPolicy::All).await?;
        let http = Client::new();
        let mut first = None;
        let batches = messages(&consumer).await?.take(count).ready_chunks(BATCH);
        // Each on its own, so that it goes on while another batch is applied.
        let fetch = |batch| {
            AbortOnDropHandle::new(tokio::spawn(fetch(http.clone(), self.url.clone(), batch)))
        };
        let mut fetched = std::pin::pin!(batches.map(fetch).buffered(CALLBACKS));
        // Otherwise the runtime interrupts a task after 128 messages, and no batch is larger.
        tokio::task::unconstrained(async {
            while let Some(batch) = fetched.next().await {
                let batch = batch??;
                let applied = batch.0.len();
                settle(&model, batch).await?;
                first.get_or_insert_with(|| (applied, Instant::now()));
            }
            Ok::<_, BoxError>(())
        })
        .await?;
        since(first, count)
    }

    /// Relays and applies changes one after the other, as they come, until dropped.
    pub(crate) async fn follow(
        self: Arc<Self>,
        model: Arc<ReadModel>,
        commits: Arc<Notify>,
    ) -> Result<[AbortOnDropHandle<()>; 2], BoxError> {
        let consumer = consumer(&self.stream, AckPolicy::All).await?;
        let bare = self.clone();
        let relay = tokio::spawn(async move {
            loop {
                bare.wake.notified().await;
                bare.relay().await.expect("what is pending is published");
            }
        });
        let apply = tokio::spawn(async move {
            let http = Client::new();
            let mut batches = messages(&consumer).await.expect("messages").ready_chunks(BATCH);
            while let Some(batch) = batches.next().await {
                let fetched = fetch(http.clone(), self.url.clone(), batch).await;
                settle(&model, fetched.expect("an answer")).await.expect("it is applied");
                commits.notify_one();
            }
        });
        Ok([AbortOnDropHandle::new(relay), AbortOnDropHandle::new(apply)])
    }

    /// Changes a thing while they are [followed](Self::follow).
    pub(crate) async fn write(&self, id: String, edition: i64) -> Result<(), BoxError> {
        self.commit(&[id], edition).await?;
        self.wake.notify_one();
        Ok(())
    }
}

/// What was fetched, and the messages that it was fetched for.
type Fetched = (Vec<Item>, Vec<Message>);

async fn fetch(
    http: Client,
    url: String,
    batch: Vec<Result<Message, async_nats::jetstream::consumer::pull::MessagesError>>,
) -> Result<Fetched, BoxError> {
    let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
    let id = |message: &Message| message.subject.rsplit('.').next().unwrap_or_default().into();
    let ids: Vec<String> = batch.iter().map(id).collect();
    let request = http.post(url).json(&Request { ids });
    let answer: Answer = request.send().await?.error_for_status()?.json().await?;
    Ok((answer.items, batch))
}

async fn settle(model: &ReadModel, (items, batch): Fetched) -> Result<(), BoxError> {
    model.apply(&items).await?;
    match batch.last() {
        Some(last) => last.ack_with(AckKind::Ack).await,
        None => Ok(()),
    }
}

async fn batch_get(
    State(db): State<Database>,
    Json(request): Json<Request>,
) -> Json<serde_json::Value> {
    let set = strings(db.kind(), "$1");
    let sql = format!(
        "SELECT thing.id, log.version, thing.state FROM thing JOIN log ON log.id = thing.id \
         WHERE thing.id IN {set}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(json!(request.ids).to_string());
    let rows: Vec<(String, i64, String)> =
        query.fetch_all(db.reader()).await.expect("things are read");
    let sent = |(id, version, state)| {
        let state = RawValue::from_string(state).expect("JSON");
        Sent { id, version, state }
    };
    Json(json!({"items": rows.into_iter().map(sent).collect::<Vec<_>>()}))
}
