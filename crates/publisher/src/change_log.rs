//! The change log: one row per entity. All of the publisher's SQL is here.
//!
//! A row is at once the transactional outbox (it is *pending* when `version` differs from
//! `published_version`), the tombstone of a deleted entity (kept for ever), and the source of
//! versions. It never grows beyond one row per entity, however often that is edited.

use std::{collections::HashMap, sync::Arc};

use nudge_protocol::{Change, EntityId, EntityName, Timestamp, Version};
use nudge_runtime::{
    Database, Tx,
    database::Migration,
    set_sql::{Column, rows, strings},
};
use serde::Serialize;
use sqlx::AssertSqlSafe;

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "change log",
    sqlite: "
        CREATE TABLE nudge_change_log (
            entity TEXT NOT NULL,
            id TEXT NOT NULL,
            version BIGINT NOT NULL,
            change TEXT NOT NULL,
            deleted BIGINT NOT NULL,
            changed_at BIGINT NOT NULL,
            published_version BIGINT NOT NULL DEFAULT 0,
            published_seq BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (entity, id)
        ) WITHOUT ROWID;
        CREATE INDEX nudge_change_log_pending ON nudge_change_log (entity, version)
            WHERE version <> published_version;
        CREATE TABLE nudge_relay_stream (entity TEXT PRIMARY KEY, created TEXT NOT NULL);",
    postgres: "
        CREATE TABLE nudge_change_log (
            entity TEXT COLLATE \"C\" NOT NULL,
            id TEXT COLLATE \"C\" NOT NULL,
            version BIGINT NOT NULL,
            change TEXT NOT NULL,
            deleted BIGINT NOT NULL,
            changed_at BIGINT NOT NULL,
            published_version BIGINT NOT NULL DEFAULT 0,
            published_seq BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (entity, id)
        );
        CREATE INDEX nudge_change_log_pending ON nudge_change_log (entity, version)
            WHERE version <> published_version;
        CREATE TABLE nudge_relay_stream (entity TEXT COLLATE \"C\" PRIMARY KEY, created TEXT NOT NULL);",
}];

/// What the change log holds for an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its newest version.
    pub version: Version,
    /// Whether that version is a tombstone.
    pub deleted: bool,
    /// When it was recorded.
    pub changed_at: Timestamp,
}

/// A row that the stream does not show yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: EntityId,
    pub(crate) version: Version,
    pub(crate) change: Change,
}

/// What was published for a row, and where it stands in the stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Published {
    pub(crate) id: EntityId,
    pub(crate) version: Version,
    pub(crate) seq: u64,
}

const PENDING: &str = "SELECT id, version, change FROM nudge_change_log \
    WHERE entity = $1 AND version <> published_version ORDER BY version LIMIT $2";
/// Every version is above 0; said here, it makes SQLite choose the index of pending rows.
const COUNT_PENDING: &str = "SELECT count(*) FROM nudge_change_log \
    WHERE entity = $1 AND version > 0 AND version <> published_version";

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
struct Sql {
    record: Arc<str>,
    recorded: Arc<str>,
    mark: Arc<str>,
    unpublish: Arc<str>,
}

/// The change log of one kind of entity.
#[derive(Clone, Debug)]
pub struct ChangeLog {
    db: Database,
    entity: EntityName,
    sql: Arc<Sql>,
}

#[derive(Serialize)]
struct RecordRow<'a> {
    id: &'a EntityId,
    change: &'static str,
    deleted: i64,
}

impl ChangeLog {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        let kind = db.kind();
        let changes = [Column::Text("id"), Column::Text("change"), Column::Int("deleted")];
        let marks = [Column::Text("id"), Column::Int("version"), Column::Int("seq")];
        let sql = Sql {
            // The version is computed from the table's row, inside DO UPDATE: a value proposed
            // before the row's lock was waited for could go backwards.
            record: format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, changed_at) \
                 SELECT $1, r.id, $3, r.change, r.deleted, $3 FROM {} WHERE true \
                 ORDER BY r.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 version = CASE WHEN log.version >= $3 THEN log.version + 1 ELSE $3 END, \
                 change = excluded.change, deleted = excluded.deleted, changed_at = $3 \
                 RETURNING id, version",
                rows(kind, "$2", &changes)
            )
            .into(),
            recorded: format!(
                "SELECT id, version, deleted, changed_at FROM nudge_change_log \
                 WHERE entity = $1 AND id IN {}",
                strings(kind, "$2")
            )
            .into(),
            // By stream sequence, never by version: a slow relay may have published an old version
            // over a newer one, and then the old one is what stands in the stream.
            //
            // An upsert of rows that are known to be there, instead of UPDATE … FROM: SQLite would
            // take the JSON apart once for each row of the log. CROSS JOIN keeps the JSON outside.
            mark: format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, \
                 changed_at, published_version, published_seq) \
                 SELECT known.entity, known.id, known.version, known.change, known.deleted, \
                 known.changed_at, r.version, r.seq \
                 FROM {} CROSS JOIN nudge_change_log AS known \
                 WHERE known.entity = $1 AND known.id = r.id ORDER BY known.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 published_version = excluded.published_version, published_seq = excluded.published_seq \
                 WHERE excluded.published_seq > log.published_seq",
                rows(kind, "$2", &marks)
            )
            .into(),
            unpublish: format!(
                "UPDATE nudge_change_log SET published_version = 0, published_seq = $2 \
                 WHERE entity = $1 AND id IN {} AND published_version <> 0",
                strings(kind, "$3")
            )
            .into(),
        };
        Self { db, entity, sql: Arc::new(sql) }
    }

    pub(crate) fn db(&self) -> &Database {
        &self.db
    }

    pub(crate) fn entity(&self) -> &EntityName {
        &self.entity
    }

    pub(crate) async fn record(
        &self,
        tx: &mut Tx,
        changes: &[(EntityId, Change)],
    ) -> Result<Vec<Version>, sqlx::Error> {
        let row = |(id, change): &(EntityId, Change)| {
            let deleted = i64::from(*change == Change::Deleted);
            serde_json::json!(RecordRow { id, change: change.as_str(), deleted })
        };
        let json = serde_json::Value::from(changes.iter().map(row).collect::<Vec<_>>());
        let returned: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(self.sql.record.clone()))
            .bind(self.entity.as_str())
            .bind(json.to_string())
            .bind(Timestamp::now().unix_micros())
            .fetch_all(&mut **tx)
            .await?;
        let versions: HashMap<String, i64> = returned.into_iter().collect();
        let version = |(id, _): &(EntityId, Change)| {
            let version = versions.get(id.as_str()).ok_or(sqlx::Error::RowNotFound)?;
            decode(Version::try_from(*version))
        };
        changes.iter().map(version).collect()
    }

    pub(crate) async fn recorded(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, Recorded>, sqlx::Error> {
        let rows: Vec<(String, i64, i64, i64)> =
            sqlx::query_as(AssertSqlSafe(self.sql.recorded.clone()))
                .bind(self.entity.as_str())
                .bind(serde_json::json!(ids).to_string())
                .fetch_all(&mut **tx)
                .await?;
        rows.into_iter().map(recorded_row).collect()
    }

    /// A page of the change log in bytewise order of ids, tombstones included.
    pub(crate) async fn page(
        &self,
        tx: &mut Tx,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<(EntityId, Recorded)>, sqlx::Error> {
        let page = "SELECT id, version, deleted, changed_at FROM nudge_change_log \
                    WHERE entity = $1 AND id > $2 ORDER BY id LIMIT $3";
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(page)
            .bind(self.entity.as_str())
            .bind(after.map_or("", EntityId::as_str))
            .bind(limit as i64)
            .fetch_all(&mut **tx)
            .await?;
        rows.into_iter().map(recorded_row).collect()
    }

    /// Up to `limit` pending rows, oldest version first. No lock is held.
    pub(crate) async fn pending(&self, limit: usize) -> Result<Vec<Pending>, sqlx::Error> {
        let query = sqlx::query_as(PENDING).bind(self.entity.as_str()).bind(limit as i64);
        let rows: Vec<(String, i64, String)> =
            self.db.run(query.fetch_all(self.db.reader())).await?;
        let row = |(id, version, change): (String, i64, String)| {
            Ok(Pending {
                id: decode(EntityId::new(&id))?,
                version: decode(Version::try_from(version))?,
                change: Change::parse(&change).unwrap_or(Change::Updated),
            })
        };
        rows.into_iter().map(row).collect()
    }

    /// How many rows are pending.
    pub(crate) async fn count_pending(&self) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(COUNT_PENDING).bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }

    /// How many entities the stream should show, which are those that were published at least once,
    /// and the highest stream sequence that any row records.
    pub(crate) async fn published(&self) -> Result<(u64, u64), sqlx::Error> {
        let sql = "SELECT count(*) FILTER (WHERE published_version <> 0), \
                   COALESCE(max(published_seq), 0) FROM nudge_change_log WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let (count, seq): (i64, i64) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok((count as u64, seq as u64))
    }

    /// Records what stands in the stream, where that is newer than what is recorded.
    pub(crate) async fn mark(&self, published: &[Published]) -> Result<(), sqlx::Error> {
        let json = serde_json::json!(published).to_string();
        let query = sqlx::query(AssertSqlSafe(self.sql.mark.clone()));
        self.db.write(query.bind(self.entity.as_str()).bind(json)).await.map(drop)
    }

    /// Makes rows pending again that changed at `since` or later. `last_seq` is the stream's
    /// current last sequence: acknowledgements of earlier publishes no longer count for them.
    pub(crate) async fn unpublish_since(
        &self,
        since: Timestamp,
        last_seq: u64,
    ) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_change_log SET published_version = 0, published_seq = $2 \
                   WHERE entity = $1 AND changed_at >= $3 AND published_version <> 0";
        let query = sqlx::query(sql).bind(self.entity.as_str());
        self.db.write(query.bind(last_seq as i64).bind(since.unix_micros())).await.map(drop)
    }

    /// Makes these rows pending again: it is not known what stands in the stream for them.
    pub(crate) async fn unpublish(
        &self,
        ids: &[EntityId],
        last_seq: u64,
    ) -> Result<(), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.sql.unpublish.clone()));
        let query = query.bind(self.entity.as_str()).bind(last_seq as i64);
        self.db.write(query.bind(serde_json::json!(ids).to_string())).await.map(drop)
    }

    /// Makes every row pending again whose recorded place lies beyond the stream's end: the broker
    /// went back to an older state.
    pub(crate) async fn unpublish_beyond(&self, last_seq: u64) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_change_log SET published_version = 0, published_seq = $2 \
                   WHERE entity = $1 AND published_seq > $2";
        let query = sqlx::query(sql).bind(self.entity.as_str());
        self.db.write(query.bind(last_seq as i64)).await.map(drop)
    }

    /// When the stream that this log was published to was created, as last recorded.
    pub(crate) async fn stream_created(&self) -> Result<Option<String>, sqlx::Error> {
        let sql = "SELECT created FROM nudge_relay_stream WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let row: Option<(String,)> = self.db.run(query.fetch_optional(self.db.reader())).await?;
        Ok(row.map(|(created,)| created))
    }

    /// Records when the stream was created.
    pub(crate) async fn set_stream_created(&self, created: &str) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO nudge_relay_stream (entity, created) VALUES ($1, $2) \
                   ON CONFLICT (entity) DO UPDATE SET created = excluded.created";
        self.db.write(sqlx::query(sql).bind(self.entity.as_str()).bind(created)).await.map(drop)
    }
}

fn recorded_row<C>(
    (id, version, deleted, changed_at): (String, i64, i64, i64),
) -> Result<C, sqlx::Error>
where
    C: From<(EntityId, Recorded)>,
{
    let recorded = Recorded {
        version: decode(Version::try_from(version))?,
        deleted: deleted != 0,
        changed_at: Timestamp::from_unix_micros(changed_at),
    };
    Ok(C::from((decode(EntityId::new(&id))?, recorded)))
}

fn decode<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<T, E>,
) -> Result<T, sqlx::Error> {
    result.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;

    use super::*;

    async fn log() -> ChangeLog {
        let db = Database::open("sqlite::memory:", Durability::Full);
        let db = db.await.unwrap();
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        ChangeLog::new(db, EntityName::new("store").unwrap())
    }

    /// What SQLite says it would do, step by step.
    async fn plan(log: &ChangeLog, sql: &str) -> String {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(explain))
            .bind("store")
            .bind("[]")
            .fetch_all(log.db.reader())
            .await
            .unwrap();
        let steps: Vec<_> = plan.into_iter().map(|(.., step)| step).collect();
        steps.join("\n")
    }

    /// Joined the wrong way round, marking one round of 2,000 rows takes minutes.
    #[tokio::test]
    async fn marking_looks_rows_up_by_key_instead_of_scanning_the_log() {
        let log = log().await;
        let plan = plan(&log, &log.sql.mark).await;
        let by_key =
            |step: &str| step.contains("SEARCH known") && step.contains("entity=? AND id=?");
        assert!(plan.lines().any(by_key), "{plan}");
    }

    /// They are looked for twice a second when nothing happens, in a log of any size.
    #[tokio::test]
    async fn pending_rows_are_found_by_their_index_and_in_its_order() {
        let log = log().await;
        for sql in [PENDING, COUNT_PENDING] {
            let plan = plan(&log, sql).await;
            assert!(plan.contains("nudge_change_log_pending (entity=?"), "{plan}");
            assert!(!plan.contains("SCAN") && !plan.contains("B-TREE"), "{plan}");
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_from_before_a_row_was_made_pending_again_counts_no_more() {
        let log = log().await;
        let id = EntityId::new("42").unwrap();
        let mut tx = log.db.begin().await.unwrap();
        let changes = [(id.clone(), Change::Updated)];
        let version = log.record(&mut tx, &changes).await.unwrap()[0];
        tx.commit().await.unwrap();
        let mark = async |seq| {
            let id = id.clone();
            log.mark(&[Published { id, version, seq }]).await.unwrap();
            log.count_pending().await.unwrap()
        };
        assert_eq!(mark(7).await, 0);
        let always = Timestamp::from_unix_micros(0);
        log.unpublish_since(always, 9).await.unwrap();
        assert_eq!((mark(9).await, mark(10).await), (1, 0));
        log.unpublish(std::slice::from_ref(&id), 20).await.unwrap();
        assert_eq!((mark(20).await, mark(21).await), (1, 0));
        // The broker went back: from here on, lower places are new ones.
        log.unpublish_beyond(3).await.unwrap();
        assert_eq!((mark(3).await, mark(4).await), (1, 0));
    }
}
