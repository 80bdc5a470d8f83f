//! All SQL of the service. A write and its version are one transaction: both commit, or neither.

use nudge_publisher::{Owner, Publisher};
use nudge_subscriber_kit::{
    protocol::{Change, EntityId, Version},
    runtime::{
        BoxError, Database, Tx,
        database::{Kind, Migration},
        set_sql::strings,
    },
    serde_json,
    sqlx::{self, AssertSqlSafe},
};

use crate::item::Item;

/// The table. To change it, add a migration with the next number; one that has run stays as it is.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "items",
    sqlite: "CREATE TABLE owned_my_entity (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL)",
    postgres: "CREATE TABLE owned_my_entity (
        id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, name TEXT NOT NULL
    )",
}];

/// The entities. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Items {
    db: Database,
    /// What follows a write, and what tells its version.
    pub publisher: Publisher,
}

impl Items {
    /// Those in this database, which `publisher` publishes.
    pub fn new(db: Database, publisher: Publisher) -> Self {
        Self { db, publisher }
    }

    /// Reads one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn get(&self, id: &EntityId) -> Result<Option<Item>, sqlx::Error> {
        let sql = "SELECT name FROM owned_my_entity WHERE id = $1";
        let read = || sqlx::query_as(sql).bind(id.as_str()).fetch_optional(self.db.reader());
        let row: Option<(String,)> = self.db.run_afresh(read).await?;
        Ok(row.map(|(name,)| Item { name }))
    }

    /// Creates or replaces one. Returns which of the two it was, and the version.
    ///
    /// # Errors
    /// If the database fails. Nothing is written then.
    pub async fn put(&self, id: &EntityId, item: &Item) -> Result<(Change, Version), sqlx::Error> {
        let sql = "INSERT INTO owned_my_entity (id, name) VALUES ($1, $2) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name";
        let put = || async {
            let mut tx = self.publisher.begin_read_committed().await?;
            let put = sqlx::query(sql).bind(id.as_str()).bind(item.name.as_str());
            put.execute(&mut *tx).await?;
            // The row is locked now: nobody else changes what is recorded of it.
            let known = self.publisher.recorded(&mut tx, std::slice::from_ref(id)).await?;
            let change = match known.get(id) {
                Some(known) if !known.deleted => Change::Updated,
                _ => Change::Created,
            };
            let version = self.publisher.record(&mut tx, id, change).await?;
            self.publisher.commit(tx).await?;
            Ok((change, version))
        };
        self.db.run_afresh(put).await
    }

    /// Deletes one. Returns the version of its tombstone, or `None` if there was nothing to delete.
    ///
    /// # Errors
    /// If the database fails. Nothing is deleted then.
    pub async fn delete(&self, id: &EntityId) -> Result<Option<Version>, sqlx::Error> {
        let sql = "DELETE FROM owned_my_entity WHERE id = $1";
        let delete = || async {
            let mut tx = self.publisher.begin_read_committed().await?;
            let deleted = sqlx::query(sql).bind(id.as_str()).execute(&mut *tx).await?;
            if deleted.rows_affected() == 0 {
                return Ok(None);
            }
            let version = self.publisher.record(&mut tx, id, Change::Deleted).await?;
            self.publisher.commit(tx).await?;
            Ok(Some(version))
        };
        self.db.run_afresh(delete).await
    }
}

/// What callbacks are answered.
impl Owner for Items {
    type State = Item;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Item)>, BoxError> {
        let these = strings(Kind::of(tx), "$1");
        let sql = format!("SELECT id, name FROM owned_my_entity WHERE id IN {these}");
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(serde_json::to_string(ids)?);
        let rows: Vec<(String, String)> = query.fetch_all(&mut **tx).await?;
        let item = |(id, name): (String, String)| Ok((EntityId::new(&id)?, Item { name }));
        rows.into_iter().map(item).collect()
    }
}
