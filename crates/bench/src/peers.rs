//! What people would use instead. Each does the least that is right: it writes the same two tables as the kit, the read model
//! and the versions that were applied, in one transaction, and no older version over a newer one.
//!
//! | module | what it is |
//! |---|---|
//! | [`by_hand`] | the loop that people write: message → GET → upsert → acknowledgement |
//! | [`fat`] | events that carry the whole state |
//! | [`bare`] | the kit's hops with nothing around them, which is the limit |
//! | [`logical`] | PostgreSQL's logical replication of the owner's table |

pub(crate) mod bare;
pub(crate) mod by_hand;
pub(crate) mod fat;
pub(crate) mod logical;

use std::time::Instant;

use async_nats::jetstream::{
    consumer::{AckPolicy, Consumer, pull},
    stream::Stream,
};
use nudge_runtime::{
    BoxError, Database,
    database::Durability,
    set_sql::{Column, rows},
};
use nudge_testbed::TestDatabase;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::{thing::Thing, world::World};

/// Messages that a peer takes at a time: what the kit takes.
pub(crate) const BATCH: usize = 256;
/// Messages that a broker delivers ahead.
const AHEAD: usize = 2_000;

/// A thing as it comes from its owner.
#[derive(Deserialize)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) version: i64,
    pub(crate) state: Thing,
}

/// A peer's read model.
pub(crate) struct ReadModel {
    pub(crate) db: Database,
    guard: String,
    upsert: String,
    _database: TestDatabase,
}

impl ReadModel {
    pub(crate) async fn new(world: &World) -> Result<Self, BoxError> {
        let database = world.database().await;
        let db = Database::open(database.url(), Durability::Refillable).await?;
        let text = db.pick("TEXT", "TEXT COLLATE \"C\"");
        let mut tx = db.begin().await?;
        for sql in [
            format!(
                "CREATE TABLE copy (id {text} PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL, \
                 open BIGINT NOT NULL, fee BIGINT NOT NULL, edition BIGINT NOT NULL)"
            ),
            format!("CREATE TABLE applied (id {text} PRIMARY KEY, version BIGINT NOT NULL)"),
        ] {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        let columns = [Column::Text("id"), Column::Int("version")];
        let guard = format!(
            "INSERT INTO applied (id, version) SELECT r.id, r.version FROM {} WHERE true \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version \
             WHERE excluded.version > applied.version RETURNING id",
            rows(world.kind, "$1", &columns),
        );
        let columns = [
            Column::Text("id"),
            Column::Text("name"),
            Column::Text("region"),
            Column::Int("open"),
            Column::Int("fee"),
            Column::Int("edition"),
        ];
        let upsert = format!(
            "INSERT INTO copy SELECT r.id, r.name, r.region, r.open, r.fee, r.edition FROM {} WHERE true \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, region = excluded.region, \
             open = excluded.open, fee = excluded.fee, edition = excluded.edition",
            rows(world.kind, "$1", &columns),
        );
        Ok(Self { db, guard, upsert, _database: database })
    }

    /// Applies those that are newer than what is there.
    pub(crate) async fn apply(&self, items: &[Item]) -> Result<(), BoxError> {
        let mut tx = self.db.begin().await?;
        let versions: Vec<_> =
            items.iter().map(|item| json!({"id": item.id, "version": item.version})).collect();
        let newer: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(self.guard.as_str()))
            .bind(Value::from(versions).to_string())
            .fetch_all(&mut *tx)
            .await?;
        let newer: std::collections::HashSet<_> = newer.into_iter().map(|(id,)| id).collect();
        let row = |item: &Item| {
            let Thing { name, region, open, fee, edition } = &item.state;
            let open = i64::from(*open);
            json!({
                "id": item.id, "name": name, "region": region, "open": open, "fee": fee,
                "edition": edition,
            })
        };
        let kept = items.iter().filter(|item| newer.contains(&item.id)).map(row);
        let kept = Value::from(kept.collect::<Vec<_>>()).to_string();
        sqlx::query(AssertSqlSafe(self.upsert.as_str())).bind(kept).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

/// A new consumer of everything in a stream.
pub(crate) async fn consumer(
    stream: &Stream,
    ack_policy: AckPolicy,
) -> Result<Consumer<pull::Config>, BoxError> {
    let max_ack_pending = i64::try_from(2 * AHEAD)?;
    let config = pull::Config {
        durable_name: Some("peer".to_owned()),
        ack_policy,
        max_ack_pending,
        ..Default::default()
    };
    // One may be left of an earlier round.
    let _ = stream.delete_consumer("peer").await;
    Ok(stream.create_consumer(config).await?)
}

/// How many of `count` a second were applied, from the first batch, which had so many, to the last: like the kit's.
fn since(first: Option<(usize, Instant)>, count: usize) -> Result<f64, BoxError> {
    let (first, began) = first.ok_or("there was nothing to apply")?;
    Ok((count - first) as f64 / began.elapsed().as_secs_f64())
}

/// The messages of a consumer.
pub(crate) async fn messages(consumer: &Consumer<pull::Config>) -> Result<pull::Stream, BoxError> {
    Ok(consumer.stream().max_messages_per_batch(AHEAD).messages().await?)
}
