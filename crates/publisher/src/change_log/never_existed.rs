//! Tombstones of IDs that the owner never had.
//!
//! If the stream holds an ID that the log does not know, somebody made it up, or the owner was restored from
//! a backup and has lost it; the owner cannot tell which. Subscribers need a version to return to, so the ID
//! gets a tombstone either way, and keeps it, since its message stays in the stream. The row also stores
//! the version at which that happened. While it has that version, the owner's own API answers as if it did not
//! know the ID; a later write gives the row a higher version, which makes it a row like any other.
//!
//! An operator can declare that such IDs never existed, also for older tombstones.

use std::sync::Arc;

use nudge_protocol::EntityId;
use nudge_runtime::{database::Kind, set_sql::strings};
use sqlx::AssertSqlSafe;

use super::{ChangeLog, Recorded, Row, VERSION_COLUMNS};

/// Tombstones that were made because of the stream, and that no operator has flagged.
const STRANGERS: &str = "entity = $1 AND stranger_version <> 0 AND stranger_version = version \
    AND deleted = 1 AND never_existed_version <> version";

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) count: Arc<str>,
    pub(super) page: Arc<str>,
    flag: Arc<str>,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        // SQLite would otherwise scan the primary key, which is the whole log.
        let log = match kind {
            Kind::Sqlite => "nudge_change_log INDEXED BY nudge_change_log_strangers",
            Kind::Postgres => "nudge_change_log",
        };
        let count = format!("SELECT count(*) FROM {log} WHERE {STRANGERS}");
        let page = format!(
            "SELECT id, {VERSION_COLUMNS} FROM {log} WHERE {STRANGERS} AND id > $2 ORDER BY id LIMIT $3"
        );
        let flag = format!(
            "UPDATE nudge_change_log SET never_existed_version = version \
             WHERE entity = $1 AND deleted = 1 AND id IN {} RETURNING id",
            strings(kind, "$2")
        );
        Self { count: count.into(), page: page.into(), flag: flag.into() }
    }
}

impl ChangeLog {
    /// How many tombstones of strangers wait for an operator. They have their own index.
    pub(crate) async fn count_strangers(&self) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.never_existed.count.clone()))
            .bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }

    /// A page of them, in bytewise order of IDs.
    pub(crate) async fn strangers(
        &self,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<(EntityId, Recorded)>, sqlx::Error> {
        let look = || {
            let query = sqlx::query_as(AssertSqlSafe(self.sql.never_existed.page.clone()))
                .bind(self.entity.as_str());
            let query = query.bind(after.map_or("", EntityId::as_str)).bind(limit as i64);
            query.fetch_all(self.db.reader())
        };
        let rows: Vec<Row> = self.db.run_afresh(look).await?;
        rows.into_iter().map(Row::recorded).collect()
    }

    /// Flags those that are tombstones as never existed, and returns them. Their versions stay: for
    /// subscribers nothing changes.
    pub(crate) async fn never_existed(
        &self,
        ids: &[EntityId],
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        let flag = || async {
            let mut tx = self.db.begin().await?;
            let flagged: Vec<(String,)> =
                sqlx::query_as(AssertSqlSafe(self.sql.never_existed.flag.clone()))
                    .bind(self.entity.as_str())
                    .bind(serde_json::json!(ids).to_string())
                    .fetch_all(&mut *tx)
                    .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(flagged)
        };
        let flagged = self.db.run_afresh(flag).await?;
        Ok(flagged.iter().filter_map(|(id,)| EntityId::new(id).ok()).collect())
    }
}
