//! The stores in the database. All of the service's SQL is under here.
//!
//! Every write is one transaction: read what is there (locked), let the domain decide, write it,
//! read the version that the triggers recorded, commit, wake the relay.
//!
//! | module | what it does |
//! |---|---|
//! | `sql` | the tables and the statements, for both databases |
//! | `row` | what a row holds, or why it cannot be read |
//! | `write` | one write |
//! | `import` | one batch of an import |

mod import;
mod row;
mod sql;
mod write;

use std::collections::HashMap;

use nudge_protocol::{EntityId, Version};
use nudge_publisher::{
    Capturing, Owner, Publisher,
    capture::{CaptureError, Tables},
    sync_api,
};
use nudge_runtime::{BoxError, Database, Tx, database::OpenError, set_sql::read_lines};
use sqlx::AssertSqlSafe;

use crate::{
    domain::{Found, Store},
    metrics::Metrics,
};
pub use row::Unreadable;
use sql::Sql;
pub use write::{WriteError, Written};

/// Most stores that are read as one text: each may have a hundred kilobytes.
const READ_AT_ONCE: usize = 128;

/// Why the tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoresError {
    /// They cannot be migrated.
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
    publisher: Publisher<Capturing>,
    sql: Sql,
    metrics: Metrics,
}

impl Stores {
    /// Migrates the tables in `db`, and installs triggers that record every change of them: stores
    /// may also be edited with the database's own tools.
    pub async fn open(
        db: &Database,
        publisher: Publisher,
        metrics: Metrics,
    ) -> Result<Self, OpenStoresError> {
        publisher.migrate("store-info", sql::MIGRATIONS).await?;
        let tables = Tables::root("store", "id").child("store_menu", "store_id");
        let publisher = publisher.capture(&tables).await?;
        Ok(Self { db: db.clone(), publisher, sql: Sql::new(db.kind()), metrics })
    }

    /// The publisher of this service's changes.
    pub fn publisher(&self) -> &Publisher<Capturing> {
        &self.publisher
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        self.db.run(sqlx::query("SELECT 1").execute(self.db.reader())).await.map(drop)
    }

    /// What is known about an ID, with its version from the same snapshot.
    pub async fn get(&self, id: &EntityId) -> Result<Found, sqlx::Error> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let found = self.find(&mut tx, id).await?;
            tx.commit().await?;
            Ok(found)
        };
        self.db.run_afresh(look).await
    }

    /// Up to `limit` stores in bytewise order of IDs, starting after `after`. Unreadable rows are left
    /// out, and named in the log.
    pub async fn page(
        &self,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<Store>, sqlx::Error> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let (mut page, mut looked_at) = (Vec::with_capacity(limit), 0);
            while page.len() < limit {
                let wanted = limit - page.len();
                let query = sqlx::query_as(AssertSqlSafe(self.sql.page.clone()))
                    .bind(after.map_or("", EntityId::as_str))
                    .bind(wanted as i64)
                    .bind(looked_at as i64);
                let (text,): (String,) = query.fetch_one(&mut *tx).await?;
                let stores = self.stores(&text);
                looked_at += stores.len();
                let are_all = stores.len() < wanted;
                page.extend(stores.into_iter().filter_map(Result::ok));
                if are_all {
                    break;
                }
            }
            tx.commit().await?;
            Ok::<_, sqlx::Error>(page)
        };
        self.db.run_afresh(look).await
    }

    /// Whether no store was ever written: there is none, and none of these IDs are recorded.
    pub async fn is_untouched(&self, ids: &[EntityId]) -> Result<bool, sqlx::Error> {
        let look = async {
            let mut tx = self.db.snapshot().await?;
            let recorded = self.publisher.recorded(&mut tx, ids).await?;
            let any = sqlx::query("SELECT 1 FROM store LIMIT 1").fetch_optional(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(recorded.is_empty() && any.is_none())
        };
        self.db.run(look).await
    }

    async fn find(&self, tx: &mut Tx, id: &EntityId) -> Result<Found, sqlx::Error> {
        let ids = std::slice::from_ref(id);
        // The store first: if someone creates it between the two statements (PostgreSQL, in a
        // writing transaction), it looks unknown, and `write` starts over; never without a version.
        let store = self.read(tx, ids).await?.pop();
        let recorded = self.publisher.recorded(tx, ids).await?.remove(id);
        // Without a version, the row was inserted while it was not captured.
        let version = recorded.map_or(Version::NONE, |recorded| recorded.version);
        Ok(match (store, recorded) {
            (Some(Ok(store)), _) => Found::Live { store: Box::new(store), version },
            (Some(Err(row)), _) => Found::Unreadable { problem: row.problem, version },
            (None, Some(recorded)) if recorded.never_existed => {
                Found::NeverExisted(recorded.version)
            }
            (None, Some(recorded)) if recorded.deleted => Found::Deleted(recorded.version),
            (None, _) => Found::Unknown,
        })
    }

    /// The existing ones of these stores, in any order.
    async fn read(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<Result<Store, Unreadable>>, sqlx::Error> {
        let mut stores = Vec::with_capacity(ids.len());
        for part in ids.chunks(READ_AT_ONCE) {
            let query = sqlx::query_as(AssertSqlSafe(self.sql.read.clone()))
                .bind(serde_json::json!(part).to_string());
            let (text,): (String,) = query.fetch_one(&mut **tx).await?;
            stores.extend(self.stores(&text));
        }
        Ok(stores)
    }

    /// Reads these rows, and logs each one that cannot be read.
    fn stores(&self, text: &str) -> Vec<Result<Store, Unreadable>> {
        let stores: Vec<_> = read_lines(text).map(row::read).collect();
        for unreadable in stores.iter().filter_map(|one| one.as_ref().err()) {
            self.metrics.unreadable_row();
            tracing::error!(
                table = "store",
                problem = unreadable.problem,
                "an unreadable row is left out"
            );
        }
        stores
    }
}

impl Owner for Stores {
    type State = Store;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Store)>, BoxError> {
        let (mut stores, mut unreadable) = (Vec::new(), Vec::new());
        for one in self.read(tx, ids).await? {
            match one {
                Ok(store) => stores.push(store),
                Err(row) => unreadable.push(row),
            }
        }
        if let Some(last) = unreadable.pop() {
            let mut all = sync_api::Unreadable::from(last);
            all.ids.extend(unreadable.into_iter().filter_map(|row| row.id));
            return Err(all.into());
        }
        Ok(stores.into_iter().map(|store| (store.id.clone(), store)).collect())
    }
}

/// Stores by ID.
fn by_id(stores: Vec<Store>) -> HashMap<EntityId, Store> {
    stores.into_iter().map(|store| (store.id.clone(), store)).collect()
}
