//! The change log as the relay uses it: what is pending, and what stands in the stream.
//!
//! On PostgreSQL nothing here waits for a row that a writer has locked: the relay locks many rows at
//! once, a writer may lock several in an order of its own, and one of the two would have to be the
//! victim of a deadlock. A locked row is left for the next round.

use std::sync::Arc;

use nudge_protocol::{Change, EntityId, EntityName, Timestamp, Version, subject};
use nudge_runtime::{
    database::Kind,
    mutant::planted,
    set_sql::{Column, rows, strings},
};
use serde::Serialize;
use sqlx::{Any, AssertSqlSafe};

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

/// Which rows to make pending again. `$2` is the parameter.
#[derive(Clone, Copy, Debug)]
enum Which {
    ChangedSince,
    Ids,
    Beyond,
    /// Places in another stream: not one of them means anything any more.
    InAnother,
}

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
pub(super) struct Sql {
    kind: Kind,
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
                match planted("mark-by-version") {
                    true => "excluded.published_version > log.published_version",
                    false => "excluded.published_seq > log.published_seq",
                }
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
        Self { kind, mark: mark.into(), behind: behind.into(), kept: kept.into() }
    }

    fn condition(&self, which: Which) -> String {
        match which {
            // Those that are pending already, too: an acknowledgement from before must not count for
            // them either.
            Which::ChangedSince => {
                "(published_version <> 0 OR published_seq < $3) AND changed_at >= $2".to_owned()
            }
            Which::Ids => format!("id IN {}", strings(self.kind, "$2")),
            Which::Beyond => "published_seq > $2".to_owned(),
            Which::InAnother => "$2 = $2".to_owned(),
        }
    }

    /// Makes rows pending again, and answers with those that are left because they are locked.
    fn unpublish(&self, which: Which) -> String {
        let condition = self.condition(which);
        let seq = match which {
            // Looking takes time: what was recorded meanwhile stands further on.
            Which::ChangedSince | Which::Ids => {
                "CASE WHEN published_seq > $3 THEN published_seq ELSE $3 END"
            }
            Which::Beyond | Which::InAnother => "$3",
        };
        let set = format!("SET published_version = 0, published_seq = {seq}");
        match self.kind {
            Kind::Sqlite => {
                format!("UPDATE nudge_change_log {set} WHERE entity = $1 AND {condition}")
            }
            Kind::Postgres => format!(
                "WITH wanted AS (SELECT id FROM nudge_change_log WHERE entity = $1 AND {condition}), \
                 free AS (SELECT id FROM nudge_change_log WHERE entity = $1 AND {condition} \
                 FOR NO KEY UPDATE SKIP LOCKED), \
                 done AS (UPDATE nudge_change_log AS log {set} \
                 FROM free WHERE log.entity = $1 AND log.id = free.id) \
                 SELECT id FROM wanted EXCEPT SELECT id FROM free"
            ),
        }
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

    /// Makes rows pending again that changed at `since` or later. `last_seq` is the stream's
    /// current last sequence: acknowledgements of earlier publishes no longer count for them.
    /// Returns those that are left, because a writer has them locked; they must not be forgotten.
    pub(crate) async fn unpublish_since(
        &self,
        since: Timestamp,
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::ChangedSince, since.unix_micros(), last_seq).await
    }

    /// Makes these rows pending again: it is not known what stands in the stream for them. Returns
    /// those that are left.
    pub(crate) async fn unpublish(
        &self,
        ids: &[EntityId],
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::Ids, serde_json::json!(ids).to_string(), last_seq).await
    }

    /// Makes every row pending again whose recorded place lies beyond the stream's end: the broker
    /// went back to an older state. Returns those that are left.
    pub(crate) async fn unpublish_beyond(
        &self,
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::Beyond, last_seq as i64, last_seq).await
    }

    /// Makes every row pending again: the stream is another one. Returns those that are left.
    pub(crate) async fn unpublish_all(&self, last_seq: u64) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::InAnother, 0, last_seq).await
    }

    async fn make_pending<'q, P>(
        &self,
        which: Which,
        parameter: P,
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error>
    where
        P: Send + sqlx::Encode<'q, Any> + sqlx::Type<Any> + 'q,
    {
        let sql = self.sql.outbox.unpublish(which);
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.to_string());
        let query = query.bind(parameter).bind(last_seq as i64);
        let work = async {
            let mut tx = self.db.begin_skipping_locked().await?;
            let left: Vec<(String,)> = query.fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(left)
        };
        let left = self.db.run(work).await?;
        Ok(left.iter().filter_map(|(id,)| EntityId::new(id).ok()).collect())
    }

    /// The stream that this log was published to, as last recorded: when it was created, and up to
    /// which sequence all that stands in it is recorded.
    pub(crate) async fn stream(&self) -> Result<Option<(String, u64)>, sqlx::Error> {
        let sql = "SELECT created, known_seq FROM nudge_relay_stream WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let row: Option<(String, i64)> =
            self.db.run(query.fetch_optional(self.db.reader())).await?;
        Ok(row.map(|(created, known)| (created, known as u64)))
    }

    /// Records what [`stream`](Self::stream) answers.
    pub(crate) async fn set_stream(&self, created: &str, known: u64) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO nudge_relay_stream (entity, created, known_seq) VALUES ($1, $2, $3) \
                   ON CONFLICT (entity) DO UPDATE SET created = excluded.created, \
                   known_seq = excluded.known_seq";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(created).bind(known as i64);
        self.db.write_skipping_locked(query).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::{Database, database::Durability};
    use nudge_testbed::TestDatabase;

    use super::*;
    use crate::change_log::MIGRATIONS;

    async fn log() -> ChangeLog {
        let db = Database::open("sqlite::memory:", Durability::Full);
        log_in(db.await.unwrap()).await
    }

    async fn log_in(db: Database) -> ChangeLog {
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

    #[tokio::test]
    async fn an_acknowledgement_from_before_a_row_was_made_pending_again_counts_no_more() {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let database = TestDatabase::of(kind).await;
            let log = log_in(database.open().await).await;
            counts_no_more_from_before_it_was_made_pending(&log).await;
            log.db.close().await;
        }
    }

    async fn counts_no_more_from_before_it_was_made_pending(log: &ChangeLog) {
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
        // Pending already, and published by a relay that has not recorded it yet.
        let always = Timestamp::from_unix_micros(0);
        log.unpublish_since(always, 5).await.unwrap();
        assert_eq!((mark(5).await, mark(7).await), (1, 0));
        log.unpublish_since(always, 9).await.unwrap();
        assert_eq!((mark(9).await, mark(10).await), (1, 0));
        log.unpublish(std::slice::from_ref(&id), 20).await.unwrap();
        assert_eq!((mark(20).await, mark(21).await), (1, 0));
        // A look that took its time: what was recorded meanwhile is not forgotten.
        log.unpublish(std::slice::from_ref(&id), 7).await.unwrap();
        log.unpublish_since(always, 7).await.unwrap();
        assert_eq!((mark(20).await, mark(21).await, mark(22).await), (1, 1, 0));
        // The broker went back: from here on, lower places are new ones.
        log.unpublish_beyond(3).await.unwrap();
        assert_eq!((mark(3).await, mark(4).await), (1, 0));
        // Another stream begins at one.
        log.unpublish_all(0).await.unwrap();
        assert_eq!((mark(0).await, mark(1).await), (1, 0));
    }
}
