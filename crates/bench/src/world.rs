//! The servers, and an owner with its things.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use async_nats::jetstream::{self, stream::Stream};
use futures_util::TryStreamExt;
use nudge_protocol::{Change, EntityId, EntityName};
use nudge_publisher::{Publisher, sync_api};
use nudge_runtime::{
    BoxError, Tx,
    database::{Kind, Migration},
    set_sql::{Column, rows, strings},
};
use nudge_subscriber_kit::{Running, Service, Started};
use nudge_testbed::{Nats, Postgres, TestDatabase};
use serde_json::{json, value::RawValue};
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    found,
    security::{self, Access, Security},
    thing::{ENTITY, Thing, id},
};

/// Things written in one transaction.
const AT_A_TIME: usize = 500;

/// The table of things.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "things",
    sqlite: "CREATE TABLE thing (id TEXT PRIMARY KEY NOT NULL, state TEXT NOT NULL)",
    postgres: "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, state TEXT NOT NULL)",
}];

/// The servers, and the databases on them.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) nats: Nats,
    pub(crate) security: Security,
    postgres: Option<Arc<Postgres>>,
}

impl World {
    pub(crate) async fn start(kind: Kind) -> Result<Self, BoxError> {
        let postgres = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(Postgres::start_durable().await),
        };
        Ok(Self { kind, nats: Nats::start().await, security: Security::new()?, postgres })
    }

    /// An empty database.
    pub(crate) async fn database(&self) -> TestDatabase {
        match &self.postgres {
            None => TestDatabase::of(Kind::Sqlite).await,
            Some(server) => TestDatabase::on(server).await,
        }
    }

    /// An owner on a new database, which everybody may ask.
    pub(crate) async fn owner(&self) -> Result<Owner, BoxError> {
        self.owner_on(Arc::new(self.database().await), Access::Open, None).await
    }

    /// Another replica of an owner.
    pub(crate) async fn replica(&self, owner: &Owner, access: Access) -> Result<Owner, BoxError> {
        self.owner_on(owner.database.clone(), access, None).await
    }

    /// Another replica of an owner, on this port, of which subscribers may ask for so many entities a second.
    pub(crate) async fn replica_at(
        &self,
        owner: &Owner,
        port: u16,
        budget: NonZeroU32,
    ) -> Result<Owner, BoxError> {
        self.owner_on(owner.database.clone(), Access::Open, Some((port, budget))).await
    }

    async fn owner_on(
        &self,
        database: Arc<TestDatabase>,
        access: Access,
        place: Option<(u16, NonZeroU32)>,
    ) -> Result<Owner, BoxError> {
        let stop = CancellationToken::new();
        let slot = Arc::new(OnceLock::new());
        let made = slot.clone();
        let service = Service::new("things")
            .keeps("things", MIGRATIONS)
            .owns(ENTITY)
            .part([sync_api::openapi(&entity())], move |at| serve(at, made));
        let mut words = self.words("things", &database, access);
        if let Some((port, budget)) = place {
            words[1] = format!("--bind=127.0.0.1:{port}");
            words.push(format!("--callback-budget={budget}"));
        }
        let running = service.start(words, stop.clone()).await?;
        let publisher: Publisher = slot.get().cloned().ok_or("the owner has not started")?;
        let url = security::url(access, running.address.port());
        Ok(Owner { publisher, url, access, running, stop, database })
    }

    /// The command line of a service.
    pub(crate) fn words(&self, name: &str, database: &TestDatabase, access: Access) -> Vec<String> {
        let mut words = vec![
            name.to_owned(),
            "--bind=127.0.0.1:0".to_owned(),
            format!("--nats-url={}", self.nats.url()),
            format!("--database-url={}", database.url()),
        ];
        words.extend(self.security.words(access));
        words
    }

    /// Removes the consumers of one subscriber, so that the next of its name begins anew.
    pub(crate) async fn forget(&self, subscriber: &str) -> Result<(), BoxError> {
        let (stream, prefix) = (self.stream().await?, format!("{subscriber}-{ENTITY}"));
        let names: Vec<String> = stream.consumer_names().try_collect().await?;
        for name in names.iter().filter(|name| name.starts_with(&prefix)) {
            stream.delete_consumer(name).await?;
        }
        Ok(())
    }

    /// The owner's stream.
    pub(crate) async fn stream(&self) -> Result<Stream, BoxError> {
        Ok(self.jetstream().await.get_stream(format!("CHANGES_{ENTITY}")).await?)
    }

    /// An empty stream of a peer, with one message for each subject `NAME.ID`, as an owner's has. What is left of an earlier
    /// round is removed.
    pub(crate) async fn peers_stream(
        jetstream: &jetstream::Context,
        name: &str,
    ) -> Result<Stream, BoxError> {
        let _ = jetstream.delete_stream(name).await;
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("{name}.*")],
            max_messages_per_subject: 1,
            ..Default::default()
        };
        Ok(jetstream.create_stream(config).await?)
    }

    /// A client of its own.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        self.nats.jetstream().await
    }
}

fn entity() -> EntityName {
    EntityName::new(ENTITY).expect("a constant that follows the rules")
}

/// Publishes and serves things.
async fn serve(at: Started, slot: Arc<OnceLock<Publisher>>) -> Result<OpenApiRouter, BoxError> {
    let publisher = Publisher::open(&at.database, entity()).await?.budget(at.callback_budget);
    let relay = publisher.spawn_relay(&at.broker, at.stop.clone());
    at.spawn(async { drop(relay.await) });
    let router = publisher.openapi_router(Things);
    let _ = slot.set(publisher);
    Ok(router)
}

struct Things;

impl nudge_publisher::Owner for Things {
    type State = Box<RawValue>;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let ids_sql = strings(Kind::of(tx), "$1");
        let sql = format!("SELECT id, state FROM thing WHERE id IN {ids_sql}");
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(serde_json::to_string(ids)?)
            .fetch_all(&mut **tx)
            .await?;
        let state = |(id, state): (String, String)| {
            Ok((EntityId::new(&id)?, RawValue::from_string(state)?))
        };
        rows.into_iter().map(state).collect()
    }
}

/// A running owner.
pub(crate) struct Owner {
    pub(crate) publisher: Publisher,
    /// Where callbacks go.
    pub(crate) url: String,
    pub(crate) access: Access,
    /// Its database, for other programs.
    pub(crate) database: Arc<TestDatabase>,
    running: Running,
    stop: CancellationToken,
}

impl Owner {
    /// Changes things in one transaction.
    pub(crate) async fn write(&self, ids: &[String], edition: i64) -> Result<(), BoxError> {
        let mut tx = self.publisher.begin().await?;
        put(&mut tx, ids, edition).await?;
        let changes = ids.iter().map(|id| Ok((EntityId::new(id)?, Change::Updated)));
        let changes: Vec<_> = changes.collect::<Result<_, BoxError>>()?;
        self.publisher.record_all(&mut tx, &changes).await?;
        Ok(self.publisher.commit(tx).await?)
    }

    /// Changes the things with numbers below `count`, and waits until all of that is published.
    pub(crate) async fn fill(&self, count: usize, edition: i64) -> Result<(), BoxError> {
        let published = self.publisher.health().published;
        let ids: Vec<_> = (0..count).map(id).collect();
        for ids in ids.chunks(AT_A_TIME) {
            self.write(ids, edition).await?;
        }
        found("everything is published", || async {
            let health = self.publisher.health();
            (health.published - published >= count as u64).then_some(())
        })
        .await
    }

    /// Stops it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.stopped().await;
    }
}

/// Writes things, without saying so to anybody.
pub(crate) async fn put(tx: &mut Tx, ids: &[String], edition: i64) -> Result<(), BoxError> {
    let from = rows(Kind::of(tx), "$1", &[Column::Text("id"), Column::Text("state")]);
    let sql = format!(
        "INSERT INTO thing (id, state) SELECT r.id, r.state FROM {from} WHERE true \
         ON CONFLICT (id) DO UPDATE SET state = excluded.state"
    );
    let state = Thing::text(edition);
    let things: Vec<_> = ids.iter().map(|id| json!({"id": id, "state": state})).collect();
    sqlx::query(AssertSqlSafe(sql)).bind(json!(things).to_string()).execute(&mut **tx).await?;
    Ok(())
}
