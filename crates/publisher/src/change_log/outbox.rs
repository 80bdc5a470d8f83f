//! The change log as the relay uses it: what is pending, and what stands in the stream. How rows are made
//! pending again is in `repair.rs`.
//!
//! On PostgreSQL nothing here waits for a row that a writer has locked: the relay locks many rows at
//! once, a writer may lock several in an order of its own, and one of the two would have to be the
//! victim of a deadlock. A locked row is left for the next round.

use std::{collections::HashSet, sync::Arc};

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
    newest: Arc<str>,
    oldest: Arc<str>,
    mark: Arc<str>,
    behind: Arc<str>,
    kept: Arc<str>,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let marks = [Column::Text("id"), Column::Int("version"), Column::Int("seq")];
        let held = rows(kind, "$3", &marks);
        let pending = |order| {
            format!(
                "SELECT id, version, change FROM nudge_change_log WHERE entity = $1 \
                 AND version <> published_version \
                 AND (id, version) NOT IN (SELECT r.id, r.version FROM {held}) \
                 ORDER BY version {order} LIMIT $2"
            )
        };
        let marks = rows(kind, "$2", &marks);
        // What a server acknowledged that was started again since may be lost with it.
        let trusted = "NOT EXISTS (SELECT 1 FROM nudge_relay_stream AS of_stream \
            WHERE of_stream.entity = $1 AND of_stream.server <> CAST($3 AS TEXT))";
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
                 WHERE known.entity = $1 AND known.id = r.id AND {trusted} ORDER BY known.id \
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
                 WHERE r.seq > log.published_seq AND {trusted} FOR NO KEY UPDATE OF log SKIP LOCKED) \
                 UPDATE nudge_change_log AS log \
                 SET published_version = free.version, published_seq = free.seq \
                 FROM free WHERE log.entity = $1 AND log.id = free.id"
            ),
        };
        let joined = format!(
            "FROM {marks} CROSS JOIN nudge_change_log AS log \
             WHERE log.entity = $1 AND log.id = r.id AND log.published_seq"
        );
        let behind = format!("SELECT log.id {joined} < r.seq");
        let kept = format!("SELECT count(*) {joined} >= r.seq");
        Self {
            newest: pending("DESC").into(),
            oldest: pending("ASC").into(),
            mark: mark.into(),
            behind: behind.into(),
            kept: kept.into(),
        }
    }
}

impl ChangeLog {
    /// Up to `limit` pending rows, but for those that are `held`. No lock is held.
    ///
    /// When there are more, half of them are the newest, which come first: what changes now does not wait for what was
    /// made pending again. The other half are the oldest, which so are not forgotten. Else they are in the order of
    /// their versions.
    ///
    /// A row that names no entity is left out. Neither `record` nor a trigger writes one; should
    /// somebody else do so, the others are not to wait for it.
    pub(crate) async fn pending(
        &self,
        limit: usize,
        held: &[Published],
    ) -> Result<Vec<Pending>, sqlx::Error> {
        let mut pending = self.read_pending(&self.sql.outbox.newest, limit, held).await?;
        if pending.len() == limit {
            pending.truncate(limit / 2);
            let oldest = limit - pending.len();
            let oldest = self.read_pending(&self.sql.outbox.oldest, oldest, held).await?;
            pending.reverse();
            let newest: HashSet<_> = pending.iter().map(|row| row.id.clone()).collect();
            pending.extend(oldest.into_iter().filter(|row| !newest.contains(&row.id)));
        } else {
            pending.reverse();
        }
        Ok(pending)
    }

    async fn read_pending(
        &self,
        sql: &Arc<str>,
        limit: usize,
        held: &[Published],
    ) -> Result<Vec<Pending>, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(sql.clone())).bind(self.entity.as_str());
        let query = query.bind(limit as i64).bind(serde_json::json!(held).to_string());
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

    /// How many entities there are rows of, tombstones included.
    pub(crate) async fn count_entities(&self) -> Result<u64, sqlx::Error> {
        let sql = "SELECT count(*) FROM nudge_change_log WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
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
    /// many rows: those that a writer has locked are left out, and stay pending. So do all, when it was
    /// another run of the server that acknowledged them than the one that counts.
    pub(crate) async fn mark(
        &self,
        published: &[Published],
        server: Option<&str>,
    ) -> Result<u64, sqlx::Error> {
        let json = serde_json::json!(published).to_string();
        let query = sqlx::query(AssertSqlSafe(self.sql.outbox.mark.clone()));
        let query = query.bind(self.entity.as_str()).bind(json).bind(server.map(str::to_owned));
        self.db.write_skipping_locked(query).await
    }

    /// Those of which the log records an earlier place: [`mark`](Self::mark) left them out.
    pub(crate) async fn behind(
        &self,
        published: &[Published],
    ) -> Result<Vec<Published>, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.outbox.behind.clone()));
        let query = query.bind(self.entity.as_str()).bind(serde_json::json!(published).to_string());
        let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        let behind: HashSet<_> = rows.iter().map(|(id,)| id.as_str()).collect();
        let of = |one: &&Published| behind.contains(one.id.as_str());
        Ok(published.iter().filter(of).cloned().collect())
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
        let of = &log.sql.outbox;
        for sql in [&*of.newest, &*of.oldest, COUNT_PENDING] {
            let plan = plan(&log, sql).await;
            assert!(plan.contains("nudge_change_log_pending (entity=?"), "{plan}");
            let scans_the_log = plan.lines().any(|step| step.contains("SCAN nudge_change_log"));
            assert!(!scans_the_log && !plan.contains("B-TREE FOR ORDER"), "{plan}");
        }
    }

    #[tokio::test]
    async fn of_many_pending_rows_the_newest_come_first_and_the_oldest_are_not_forgotten() {
        let log = log().await;
        for n in 1..=10 {
            let id = EntityId::new(&n.to_string()).unwrap();
            let mut tx = log.db.begin().await.unwrap();
            log.record(&mut tx, &[(id, Change::Updated)]).await.unwrap();
            tx.commit().await.unwrap();
        }
        let ids = async |limit, held: &[Published]| {
            let pending = log.pending(limit, held).await.unwrap();
            pending.iter().map(|row| row.id.as_str().parse().unwrap()).collect::<Vec<u32>>()
        };
        assert_eq!(ids(11, &[]).await, (1..=10).collect::<Vec<_>>());
        assert_eq!(ids(4, &[]).await, [9, 10, 1, 2]);
        let all = log.pending(11, &[]).await.unwrap();
        let held = |row: &Pending| Published { id: row.id.clone(), version: row.version, seq: 1 };
        let mut held: Vec<_> = [9, 0].iter().map(|n| held(&all[*n])).collect();
        assert_eq!(ids(4, &held).await, [8, 9, 2, 3]);
        // A newer version of what is held is not.
        held[0].version = all[8].version;
        assert_eq!(ids(4, &held).await, [9, 10, 2, 3]);
    }
}
