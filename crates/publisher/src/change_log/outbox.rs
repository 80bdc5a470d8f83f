//! The change log as the relay uses it: what is pending, and what stands in the stream. How rows are made
//! pending again is in `repair.rs`.
//!
//! On PostgreSQL nothing here waits for a row that a writer has locked: the relay locks many rows at
//! once, a writer may lock several in an order of its own, and one of the two would have to be the
//! victim of a deadlock. A locked row is left for the next round.

use std::sync::Arc;

use nudge_protocol::{Change, EntityId, EntityName, Version, subject};
use nudge_runtime::{
    database::Kind,
    mutated,
    set_sql::{Column, rows},
};
use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::ChangeLog;
use crate::sink::Stored;

const PENDING: &str = "SELECT id, version, change FROM nudge_change_log \
    WHERE entity = $1 AND version <> published_version ORDER BY version LIMIT $2";
/// Every version is above 0; said here, it makes SQLite choose the index of pending rows.
const COUNT_PENDING: &str = "SELECT count(*) FROM nudge_change_log \
    WHERE entity = $1 AND version > 0 AND version <> published_version";

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
    /// [`Version::NONE`] when it names none that can be read: the row is then pending.
    pub(crate) version: Version,
    pub(crate) seq: u64,
}

impl Published {
    /// What a message in the stream says was published; none when its subject names no entity.
    pub(crate) fn by(entity: &EntityName, stored: &Stored) -> Option<Self> {
        let id = subject::decode_subject(entity, &stored.subject).ok()?;
        let version = stored.version.as_deref().and_then(|version| version.parse().ok());
        Some(Self { id, version: version.unwrap_or(Version::NONE), seq: stored.sequence })
    }
}

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
pub(super) struct Sql {
    mark: Arc<str>,
    behind: Arc<str>,
    kept: Arc<str>,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let marks = [Column::Text("id"), Column::Int("version"), Column::Int("seq")];
        let marks = rows(kind, "$2", &marks);
        // By stream sequence, never by version: a slow relay may have published an old version
        // over a newer one, and then the old one is what stands in the stream.
        let mark = match kind {
            // An upsert of rows that are known to be there, instead of UPDATE … FROM: SQLite would
            // take the JSON apart once for each row of the log. CROSS JOIN keeps the JSON outside.
            Kind::Sqlite => format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, \
                 changed_at, published_version, published_seq) \
                 SELECT known.entity, known.id, known.version, known.change, known.deleted, \
                 known.changed_at, r.version, r.seq \
                 FROM {marks} CROSS JOIN nudge_change_log AS known \
                 WHERE known.entity = $1 AND known.id = r.id ORDER BY known.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 published_version = excluded.published_version, published_seq = excluded.published_seq \
                 WHERE {}",
                mutated!(
                    MarkByVersion:
                    "excluded.published_seq > log.published_seq"
                        => "excluded.published_version > log.published_version"
                )
            ),
            Kind::Postgres => format!(
                "WITH free AS (SELECT log.id, r.version, r.seq FROM {marks} \
                 JOIN nudge_change_log AS log ON log.entity = $1 AND log.id = r.id \
                 WHERE r.seq > log.published_seq FOR NO KEY UPDATE OF log SKIP LOCKED) \
                 UPDATE nudge_change_log AS log \
                 SET published_version = free.version, published_seq = free.seq \
                 FROM free WHERE log.entity = $1 AND log.id = free.id"
            ),
        };
        let count = format!(
            "SELECT count(*) FROM {marks} CROSS JOIN nudge_change_log AS log \
             WHERE log.entity = $1 AND log.id = r.id AND log.published_seq"
        );
        let behind = format!("{count} < r.seq");
        let kept = format!("{count} >= r.seq");
        Self { mark: mark.into(), behind: behind.into(), kept: kept.into() }
    }
}

impl ChangeLog {
    /// Up to `limit` pending rows, oldest version first. No lock is held.
    ///
    /// A row that names no entity is left out. Neither `record` nor a trigger writes one; should
    /// somebody else do so, the others are not to wait for it.
    pub(crate) async fn pending(&self, limit: usize) -> Result<Vec<Pending>, sqlx::Error> {
        let query = sqlx::query_as(PENDING).bind(self.entity.as_str()).bind(limit as i64);
        let rows: Vec<(String, i64, String)> =
            self.db.run(query.fetch_all(self.db.reader())).await?;
        let row = |(id, version, change): (String, i64, String)| match (
            EntityId::new(&id),
            Version::try_from(version),
        ) {
            (Ok(id), Ok(version)) => {
                let change = Change::parse(&change).unwrap_or(Change::Updated);
                Some(Pending { id, version, change })
            }
            _ => {
                let entity = &self.entity;
                tracing::error!(%entity, id, version, "a row of the change log names no entity");
                None
            }
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// How many rows are pending.
    pub(crate) async fn count_pending(&self) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(COUNT_PENDING).bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }

    /// How many entities there are; how many the stream should show, which are those that were
    /// published at least once; and the highest stream sequence that any row records.
    pub(crate) async fn published(&self) -> Result<(u64, u64, u64), sqlx::Error> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE published_version <> 0), \
                   COALESCE(max(published_seq), 0) FROM nudge_change_log WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let (all, count, seq): (i64, i64, i64) =
            self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok((all as u64, count as u64, seq as u64))
    }

    /// What was published last, by the stream's order: so many at most, the last first.
    pub(crate) async fn last_published(&self, limit: usize) -> Result<Vec<Published>, sqlx::Error> {
        let sql = "SELECT id, published_version, published_seq FROM nudge_change_log \
                   WHERE entity = $1 AND published_version <> 0 ORDER BY published_seq DESC LIMIT $2";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(limit as i64);
        let rows: Vec<(String, i64, i64)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        let published = |(id, version, seq): (String, i64, i64)| {
            let (id, version) = (EntityId::new(&id).ok()?, Version::try_from(version).ok()?);
            Some(Published { id, version, seq: seq as u64 })
        };
        Ok(rows.into_iter().filter_map(published).collect())
    }

    /// Records what stands in the stream, where that is newer than what is recorded. Returns for how
    /// many rows: those that a writer has locked are left out, and stay pending.
    pub(crate) async fn mark(&self, published: &[Published]) -> Result<u64, sqlx::Error> {
        let json = serde_json::json!(published).to_string();
        let query = sqlx::query(AssertSqlSafe(self.sql.outbox.mark.clone()));
        self.db.write_skipping_locked(query.bind(self.entity.as_str()).bind(json)).await
    }

    /// For how many of these the log records an earlier place: [`mark`](Self::mark) left them out.
    pub(crate) async fn count_behind(&self, published: &[Published]) -> Result<u64, sqlx::Error> {
        self.count(&self.sql.outbox.behind, published).await
    }

    /// Whether the log records all of these, at their places or at later ones.
    pub(crate) async fn keeps(&self, recorded: &[Published]) -> Result<bool, sqlx::Error> {
        Ok(recorded.is_empty()
            || self.count(&self.sql.outbox.kept, recorded).await? == recorded.len() as u64)
    }

    async fn count(&self, sql: &str, of: &[Published]) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(sql.to_owned()));
        let query = query.bind(self.entity.as_str()).bind(serde_json::json!(of).to_string());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::{Database, database::Durability};

    use super::*;
    use crate::change_log::MIGRATIONS;

    async fn log() -> ChangeLog {
        let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
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
        let of = &log.sql.outbox;
        for (sql, table) in [(&of.mark, "known"), (&of.behind, "log"), (&of.kept, "log")] {
            let plan = plan(&log, sql).await;
            let by_key = |step: &str| {
                step.contains(&format!("SEARCH {table}")) && step.contains("entity=? AND id=?")
            };
            assert!(plan.lines().any(by_key), "{plan}");
        }
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
}
