//! The change log as the relay uses it: what is pending, and what the stream holds. How rows are made
//! pending again is in `repair.rs`.
//!
//! On PostgreSQL nothing here waits for a row that a writer has locked: the relay locks many rows at
//! once, a writer may lock several in another order, and one of the two would become the
//! victim of a deadlock. A locked row is left for the next round.

use std::{collections::HashSet, sync::Arc};

use nudge_protocol::{Change, EntityId, EntityName, Version, subject};
use nudge_runtime::{
    database::Kind,
    mutated,
    set_sql::{Column, Line, by_key, lines, read_lines, rows},
};
use serde::Serialize;
use sqlx::{
    Any, AssertSqlSafe, FromRow,
    any::{AnyArguments, AnyRow},
    query::QueryAs,
};

use super::{ChangeLog, number};
use crate::sink::Stored;

/// Every version is above 0; saying so makes SQLite choose the index of pending rows. In its order, or PostgreSQL would
/// read the whole log, of which it believes that all is pending.
pub(super) const COUNT_PENDING: &str = "SELECT count(*), COALESCE(min(version), 0) FROM (SELECT version FROM nudge_change_log \
    WHERE entity = $1 AND version > 0 AND version <> published_version ORDER BY version) AS pending";

/// Sequences begin at 1; saying so makes both databases choose the index of sequences.
pub(super) const HIGHEST_PLACE: &str = "SELECT COALESCE(max(published_seq), 0) FROM nudge_change_log \
    WHERE entity = $1 AND published_seq > 0";
pub(super) const LAST: &str = "SELECT id, published_version, published_seq FROM nudge_change_log \
    WHERE entity = $1 AND published_seq > 0 AND published_version <> 0 ORDER BY published_seq DESC LIMIT $2";

/// A row that is not yet in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: EntityId,
    pub(crate) version: Version,
    pub(crate) change: Change,
    /// It was never published to this stream.
    pub(crate) is_first: bool,
}

/// The columns of a [`PendingRow`].
const PENDING: [Column; 4] =
    [Column::Text("id"), Column::Int("version"), Column::Text("change"), Column::Int("seq")];

/// A row as the log has it. The ID in bytes: SQLite stores whatever it is given, and one row that is not UTF-8 must not
/// delay the others.
#[derive(Debug)]
struct PendingRow {
    id: Vec<u8>,
    version: i64,
    change: Option<String>,
    seq: i64,
}

impl PendingRow {
    fn of(mut line: Line<'_>) -> Result<Self, sqlx::Error> {
        let id = line.bytes().unwrap_or_default();
        let (version, change, seq) = (number(&mut line)?, line.text(), number(&mut line)?);
        Ok(Self { id, version, change, seq })
    }

    fn read(&self) -> Option<Pending> {
        let (id, version) = (read_id(&self.id)?, Version::try_from(self.version).ok()?);
        let change = self.change.as_deref().and_then(Change::parse).unwrap_or(Change::Updated);
        Some(Pending { id, version, change, is_first: self.seq == 0 })
    }
}

/// An ID as the log has it; `None` if it is invalid.
pub(super) fn read_id(id: &[u8]) -> Option<EntityId> {
    EntityId::new(std::str::from_utf8(id).ok()?).ok()
}

/// A text column as bytes, whatever SQLite stores there.
pub(crate) fn bytes(kind: Kind, column: &str) -> String {
    match kind {
        Kind::Sqlite => format!("CAST({column} AS BLOB)"),
        Kind::Postgres => format!("convert_to({column}, 'UTF8')"),
    }
}

/// What was published for a row, and its sequence in the stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Published {
    pub(crate) id: EntityId,
    /// [`Version::NONE`] if the message has no readable version: the row is then pending.
    pub(crate) version: Version,
    pub(crate) seq: u64,
}

impl Published {
    /// What the log says; `None` if the row's ID is invalid.
    pub(super) fn read(id: &[u8], version: i64, seq: i64) -> Option<Self> {
        let (version, seq) = (Version::try_from(version).ok()?, u64::try_from(seq).ok()?);
        Some(Self { id: read_id(id)?, version, seq })
    }

    /// What a message in the stream says; `None` if its subject names no entity.
    pub(crate) fn by(entity: &EntityName, stored: &Stored) -> Option<Self> {
        let id = subject::decode_subject(entity, &stored.subject).ok()?;
        let version = stored.version.as_deref().and_then(|version| version.parse().ok());
        Some(Self { id, version: version.unwrap_or(Version::NONE), seq: stored.sequence })
    }
}

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) newest: Arc<str>,
    pub(super) oldest: Arc<str>,
    pub(super) mark: Arc<str>,
    pub(super) behind: Arc<str>,
    pub(super) kept: Arc<str>,
    take_out: Arc<str>,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let marks = [Column::Text("id"), Column::Int("version"), Column::Int("seq")];
        let held = rows(kind, "$3", &marks);
        let pending = |order| {
            // As text, whatever it is.
            let rows = format!(
                "SELECT CAST(id AS TEXT) AS id, version, change, published_seq AS seq \
                 FROM nudge_change_log WHERE entity = $1 \
                 AND version <> published_version \
                 AND (id, version) NOT IN (SELECT r.id, r.version FROM {held}) \
                 ORDER BY version {order} LIMIT $2"
            );
            lines(kind, &PENDING, &rows)
        };
        let (marks, by_id) = (rows(kind, "$2", &marks), by_key(kind, "$2", "log.id"));
        // What a server acknowledged before it was restarted may be lost.
        let trusted = "NOT EXISTS (SELECT 1 FROM nudge_relay_stream AS of_stream \
            WHERE of_stream.entity = $1 AND of_stream.server <> CAST($3 AS TEXT))";
        // By stream sequence, never by version: a slow relay may have published an old version
        // over a newer one, and then the stream holds the old one.
        let mark = match kind {
            // An upsert of rows that are known to exist, instead of UPDATE … FROM: SQLite would
            // parse the JSON once for each row of the log. CROSS JOIN keeps the JSON outside.
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
            // By the place of what it has locked, which takes a third of the time of looking it up once more. A row that
            // somebody changed meanwhile has another place, and is left out like one that is locked.
            Kind::Postgres => format!(
                "WITH free AS (SELECT log.ctid AS place, r.version, r.seq FROM {marks} \
                 JOIN nudge_change_log AS log ON log.entity = $1 AND log.id = r.id {by_id} \
                 WHERE r.seq > log.published_seq AND {trusted} FOR NO KEY UPDATE OF log SKIP LOCKED) \
                 UPDATE nudge_change_log AS log \
                 SET published_version = free.version, published_seq = free.seq \
                 FROM free WHERE log.ctid = free.place"
            ),
        };
        let joined = format!(
            "FROM {marks} CROSS JOIN nudge_change_log AS log \
             WHERE log.entity = $1 AND log.id = r.id {by_id} AND log.published_seq"
        );
        let behind = format!("SELECT log.id {joined} < r.seq");
        let kept = format!("SELECT count(*) {joined} >= r.seq");
        let take_out = match kind {
            Kind::Sqlite => {
                "DELETE FROM nudge_change_log WHERE entity = $1 AND id IN (CAST($2 AS TEXT), $2)"
            }
            Kind::Postgres => {
                "DELETE FROM nudge_change_log WHERE entity = $1 AND id IN (SELECT id FROM nudge_change_log \
                 WHERE entity = $1 AND id = convert_from($2, 'UTF8') FOR UPDATE SKIP LOCKED)"
            }
        };
        Self {
            newest: pending("DESC").into(),
            oldest: pending("ASC").into(),
            mark: mark.into(),
            behind: behind.into(),
            kept: kept.into(),
            take_out: take_out.into(),
        }
    }
}

impl ChangeLog {
    /// Up to `limit` pending rows, except those that are `held`. No lock is held.
    ///
    /// If there are more, half of them are the newest, which come first: a fresh change does not wait for rows that were
    /// made pending again. The other half are the oldest, so that they are not starved. Otherwise they are in the order of
    /// their versions.
    ///
    /// Rows with invalid IDs are returned separately, by those IDs.
    pub(crate) async fn pending(
        &self,
        limit: usize,
        held: &[Published],
    ) -> Result<(Vec<Pending>, Vec<Vec<u8>>), sqlx::Error> {
        let half = limit / 2;
        // One more, to see whether there are any.
        let mut rows = self.read_pending(&self.sql.outbox.newest, half + 1, held).await?;
        let more = rows.len() > half;
        rows.truncate(half);
        rows.reverse();
        if more {
            let newest: HashSet<_> = rows.iter().map(|row| row.id.clone()).collect();
            let most = limit - half;
            let mut oldest = self.read_pending(&self.sql.outbox.oldest, most, held).await?;
            oldest.retain(|row| !newest.contains(&row.id));
            let none_between = oldest.len() < most;
            rows.extend(oldest);
            if none_between {
                rows.rotate_left(half);
            }
        }
        let (mut pending, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match row.read() {
                Some(row) => pending.push(row),
                None => unreadable.push(row.id),
            }
        }
        Ok((pending, unreadable))
    }

    async fn read_pending(
        &self,
        sql: &Arc<str>,
        limit: usize,
        held: &[Published],
    ) -> Result<Vec<PendingRow>, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(sql.clone())).bind(self.entity.as_str());
        let query = query.bind(limit as i64).bind(serde_json::json!(held).to_string());
        let (text,): (String,) =
            self.read_in_order(query).await?.pop().ok_or(sqlx::Error::RowNotFound)?;
        read_lines(&text).map(PendingRow::of).collect()
    }

    /// The rows of a query that ends after a few entries of an index. Each row that was ever pending is in its index until
    /// PostgreSQL next cleans up.
    async fn read_in_order<O>(
        &self,
        query: QueryAs<'_, Any, O, AnyArguments>,
    ) -> Result<Vec<O>, sqlx::Error>
    where
        O: Send + Unpin + for<'r> FromRow<'r, AnyRow>,
    {
        let work = async {
            if self.db.kind() == Kind::Sqlite {
                return query.fetch_all(self.db.reader()).await;
            }
            let mut tx = self.db.begin_in_order().await?;
            let rows = query.fetch_all(&mut *tx).await?;
            tx.rollback().await?;
            Ok(rows)
        };
        self.db.run(work).await
    }

    /// Removes rows with invalid IDs, as returned by [`pending`](Self::pending). Returns how many it removed: those
    /// that a writer has locked are returned again later.
    pub(crate) async fn take_out(&self, unreadable: &[Vec<u8>]) -> Result<u64, sqlx::Error> {
        let work = async {
            let mut tx = self.db.begin_skipping_locked().await?;
            let mut taken = 0;
            for id in unreadable {
                let query = sqlx::query(AssertSqlSafe(self.sql.outbox.take_out.clone()));
                let query = query.bind(self.entity.as_str()).bind(id.clone());
                taken += query.execute(&mut *tx).await?.rows_affected();
            }
            tx.commit().await?;
            Ok(taken)
        };
        self.db.run(work).await
    }

    /// How many rows are pending, and the oldest version among them.
    pub(crate) async fn count_pending(&self) -> Result<(u64, Option<Version>), sqlx::Error> {
        let query = sqlx::query_as(COUNT_PENDING).bind(self.entity.as_str());
        let (count, oldest): (i64, i64) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok((count as u64, Version::try_from(oldest).ok().filter(|oldest| *oldest > Version::NONE)))
    }

    /// Whether there is any entity.
    pub(crate) async fn has_any(&self) -> Result<bool, sqlx::Error> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM nudge_change_log WHERE entity = $1 LIMIT 1) AS one";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count > 0)
    }

    /// How many entities the stream should hold. Reads the whole log, so only for when some seem to be missing.
    pub(crate) async fn count_published(&self) -> Result<u64, sqlx::Error> {
        let sql =
            "SELECT count(*) FROM nudge_change_log WHERE entity = $1 AND published_version <> 0";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }

    /// The highest stream sequence of any row.
    pub(crate) async fn highest_place(&self) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(HIGHEST_PLACE).bind(self.entity.as_str());
        let (seq,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(seq as u64)
    }

    /// What was published last, newest first, in the stream's order: at most `limit`.
    pub(crate) async fn last_published(&self, limit: usize) -> Result<Vec<Published>, sqlx::Error> {
        let query = sqlx::query_as(LAST).bind(self.entity.as_str()).bind(limit as i64);
        let rows: Vec<(String, i64, i64)> = self.read_in_order(query).await?;
        let published =
            |(id, version, seq): (String, _, _)| Published::read(id.as_bytes(), version, seq);
        Ok(rows.into_iter().filter_map(published).collect())
    }

    /// Marks rows with what the stream holds, where that is newer than the row's mark. Returns how
    /// many rows were marked. Rows that a writer has locked are left out, and stay pending. So do all, if
    /// a run of the server other than the current one acknowledged them.
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

    /// Those for which the log has an earlier sequence: [`mark`](Self::mark) left them out.
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

    /// Whether the log has all of these, at their sequences or at later ones.
    pub(crate) async fn keeps(&self, marked: &[Published]) -> Result<bool, sqlx::Error> {
        Ok(marked.is_empty()
            || self.count(&self.sql.outbox.kept, marked).await? == marked.len() as u64)
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
            let (pending, _) = log.pending(limit, held).await.unwrap();
            pending.iter().map(|row| row.id.as_str().parse().unwrap()).collect::<Vec<u32>>()
        };
        for limit in 11..=22 {
            assert_eq!(ids(limit, &[]).await, (1..=10).collect::<Vec<_>>(), "{limit}");
        }
        assert_eq!(ids(10, &[]).await, [6, 7, 8, 9, 10, 1, 2, 3, 4, 5]);
        assert_eq!(ids(4, &[]).await, [9, 10, 1, 2]);
        let (all, _) = log.pending(11, &[]).await.unwrap();
        let held = |row: &Pending| Published { id: row.id.clone(), version: row.version, seq: 1 };
        let mut held: Vec<_> = [9, 0].iter().map(|n| held(&all[*n])).collect();
        assert_eq!(ids(4, &held).await, [8, 9, 2, 3]);
        // A newer version of what is held is not.
        held[0].version = all[8].version;
        assert_eq!(ids(4, &held).await, [9, 10, 2, 3]);
    }
}
