//! The stores in the database. All of the service's SQL is under here.
//!
//! Every write is one transaction: read what is there (locked), let the domain decide, write it,
//! read the version that the triggers recorded, commit, wake the relay.
//!
//! | module | what it does |
//! |---|---|
//! | `sql` | the tables and the statements, for both databases |
//! | `write` | one write |
//! | `import` | one batch of an import |

mod import;
mod sql;
mod write;

use std::collections::HashMap;

use nudge_protocol::{EntityId, Version};
use nudge_publisher::{
    Owner, Publisher,
    capture::{CaptureError, Tables},
};
use nudge_runtime::{BoxError, Database, Tx, database::OpenError};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::{
    domain::{Found, Store},
    metrics::Metrics,
};
use sql::Sql;
pub use write::{WriteError, Written};

/// Why the tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoresError {
    /// They cannot be brought up to date.
    #[error(transparent)]
    Migrate(#[from] OpenError),
    /// Their changes cannot be captured.
    #[error("DATABASE_URL")]
    Capture(#[from] CaptureError),
}

/// The stores. Cloning is cheap and shares the database.
#[derive(Clone, Debug)]
pub struct Stores {
    db: Database,
    publisher: Publisher,
    sql: Sql,
    metrics: Metrics,
}

impl Stores {
    /// Brings the tables in `db` up to date, and has triggers record every change of them: stores
    /// may be edited with the database's own tools, too.
    pub async fn open(
        db: &Database,
        publisher: Publisher,
        metrics: Metrics,
    ) -> Result<Self, OpenStoresError> {
        db.migrate("store-info", sql::MIGRATIONS).await?;
        let tables = Tables::root("store", "id").child("store_menu", "store_id");
        let publisher = publisher.capture(&tables).await?;
        Ok(Self { db: db.clone(), publisher, sql: Sql::new(db.kind()), metrics })
    }

    /// The publisher of this service's changes.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        self.db.run(sqlx::query("SELECT 1").execute(self.db.reader())).await.map(drop)
    }

    /// What is known of an id, its version of the same snapshot.
    pub async fn get(&self, id: &EntityId) -> Result<Found, sqlx::Error> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let found = self.find(&mut tx, id).await?;
            tx.commit().await?;
            Ok(found)
        };
        self.db.run_afresh(look).await
    }

    /// Up to `limit` stores in bytewise order of ids, from the first after `after`.
    pub async fn page(
        &self,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<Store>, sqlx::Error> {
        let look = || {
            let query = sqlx::query_as(AssertSqlSafe(self.sql.page.clone()));
            let query = query.bind(after.map_or("", EntityId::as_str)).bind(limit as i64);
            query.fetch_all(self.db.reader())
        };
        let rows = self.db.run_afresh(look).await?;
        rows.into_iter().map(sql::store).collect()
    }

    /// Whether no store was ever written: neither is there one, nor are any of these ids recorded.
    pub async fn is_untouched(&self, ids: &[EntityId]) -> Result<bool, sqlx::Error> {
        let look = async {
            let mut tx = self.db.snapshot().await?;
            let recorded = self.publisher.recorded(&mut tx, ids).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(recorded)
        };
        let recorded = self.db.run(look).await?;
        Ok(recorded.is_empty() && self.page(None, 1).await?.is_empty())
    }

    async fn find(&self, tx: &mut Tx, id: &EntityId) -> Result<Found, sqlx::Error> {
        let ids = std::slice::from_ref(id);
        // The store first: if someone creates it between the two statements (PostgreSQL, in a
        // writing transaction), it looks unknown, and `write` starts over; never without a version.
        let store = self.read(tx, ids).await?.pop();
        let recorded = self.publisher.recorded(tx, ids).await?.remove(id);
        Ok(match (store, recorded) {
            (Some(store), recorded) => {
                // Without a record the row came in past this service; it has no version yet.
                let version = recorded.map_or(Version::NONE, |recorded| recorded.version);
                let store = Box::new(store);
                Found::Live { store, version }
            }
            (None, Some(recorded)) if recorded.never_existed => {
                Found::NeverExisted(recorded.version)
            }
            (None, Some(recorded)) if recorded.deleted => Found::Deleted(recorded.version),
            (None, _) => Found::Unknown,
        })
    }

    /// Those of the stores that exist, in any order.
    async fn read(&self, tx: &mut Tx, ids: &[EntityId]) -> Result<Vec<Store>, sqlx::Error> {
        let rows = sqlx::query_as(AssertSqlSafe(self.sql.read.clone()))
            .bind(serde_json::json!(ids).to_string())
            .fetch_all(&mut **tx)
            .await?;
        rows.into_iter().map(sql::store).collect()
    }
}

impl Owner for Stores {
    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let stores = self.read(tx, ids).await?;
        let state = |store: Store| {
            let state = serde_json::value::to_raw_value(&store)?;
            Ok((store.id, state))
        };
        stores.into_iter().map(state).collect()
    }
}

/// Stores by their ids.
fn by_id(stores: Vec<Store>) -> HashMap<EntityId, Store> {
    stores.into_iter().map(|store| (store.id.clone(), store)).collect()
}
