//! The dead-letter table: keys that keep failing, stored so that they survive a restart.
//!
//! A row with `next_at` is *parked*: it re-enters the work queue at that time. A row without it is a *dead letter*: it
//! failed in a way that a retry alone cannot fix. Any replica that applies the entity at the row's version or later
//! removes the row in the same transaction.

use std::time::Duration;

use nudge_protocol::{EntityId, EntityName, Timestamp, Version, admin::DeadLetter};
use nudge_runtime::{
    Database, Tx, clock,
    database::Kind,
    row,
    set_sql::{Column, by_key, rows, strings},
};
use sqlx::AssertSqlSafe;

use super::{counted::Counted, revision::is_outdated};

/// Longest error text stored, in bytes.
const MAX_ERROR_BYTES: usize = 1_000;
/// How long a row that re-entered the queue is not handed out again.
const LEASE: Duration = Duration::from_secs(120);

/// A key to write to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parking {
    pub(crate) id: EntityId,
    pub(crate) floor: Version,
    /// The version that the owner answered; [`Version::NONE`] without an answer.
    pub(crate) answered: Version,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    /// `None` makes it a dead letter.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the owner does not know the ID.
    pub(crate) unknown: bool,
}

/// A row that is due.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) id: EntityId,
    pub(crate) floor: Version,
    pub(crate) attempts: u32,
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows that are retried automatically.
    pub(crate) parked: u64,
    /// Rows that are not.
    pub(crate) dead_letters: u64,
    /// Parked rows whose ID the owner does not know.
    pub(crate) unknown: u64,
}

/// The rows of one kind of entity.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetters {
    db: Database,
    entity: EntityName,
    /// The handler's revision.
    revision: i64,
    counted: Counted<Counts>,
}

row! {
    struct Row {
        id: String,
        floor: i64,
        error: String,
        attempts: i64,
        first_failed_at: i64,
        last_failed_at: i64,
        next_at: Option<i64>,
    }
}

impl Row {
    fn shown(self, entity: &EntityName) -> Option<DeadLetter> {
        Some(DeadLetter {
            entity: entity.clone(),
            id: EntityId::new(&self.id).ok()?,
            floor: Version::try_from(self.floor).ok()?,
            error: self.error,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            first_failed_at: Some(Timestamp::from_unix_micros(self.first_failed_at)),
            last_failed_at: Some(Timestamp::from_unix_micros(self.last_failed_at)),
            next_at: self.next_at.map(Timestamp::from_unix_micros),
        })
    }
}

impl DeadLetters {
    pub(crate) fn new(db: Database, entity: EntityName, revision: i64) -> Self {
        Self { db, entity, revision, counted: Counted::default() }
    }

    /// Writes keys to the table, or updates their last failure. Leaves out a key that another replica has meanwhile
    /// applied at the version that the owner answered, or later; not one that was to be applied again. The version of a
    /// message is not enough to leave a key out: it may be lower than that of the change that the message replaced.
    ///
    /// If another replica reports late that an older version was refused, retries of a newer one continue.
    pub(crate) async fn park(&self, keys: &[Parking]) -> Result<(), sqlx::Error> {
        let now = clock::now().unix_micros();
        let row = |key: &Parking| {
            let next_at = key.retry_after.map(|after| now + after.as_micros() as i64);
            serde_json::json!({
                "id": key.id, "floor": key.floor, "answered": key.answered,
                "error": shortened(&key.error, MAX_ERROR_BYTES), "attempts": key.attempts, "next_at": next_at,
                "unknown": i64::from(key.unknown),
            })
        };
        let set = serde_json::Value::from(keys.iter().map(row).collect::<Vec<_>>()).to_string();
        let columns = [
            Column::Text("id"),
            Column::Int("floor"),
            Column::Int("answered"),
            Column::Text("error"),
            Column::Int("attempts"),
            Column::Int("next_at"),
            Column::Int("unknown"),
        ];
        let sql = format!(
            "INSERT INTO nudge_dead_letter AS dead \
             (entity, id, floor, error, attempts, first_failed_at, last_failed_at, next_at, unknown) \
             SELECT $1, r.id, r.floor, r.error, r.attempts, $3, $3, r.next_at, r.unknown FROM {} \
             WHERE NOT EXISTS (SELECT 1 FROM nudge_applied a WHERE a.entity = $1 AND a.id = r.id {} \
                               AND r.answered > 0 AND (a.version > r.answered \
                               OR a.version = r.answered AND NOT {})) ORDER BY r.id \
             ON CONFLICT (entity, id) DO UPDATE SET \
             floor = CASE WHEN excluded.floor > dead.floor THEN excluded.floor ELSE dead.floor END, \
             error = excluded.error, attempts = excluded.attempts, \
             last_failed_at = excluded.last_failed_at, unknown = excluded.unknown, \
             next_at = CASE WHEN excluded.next_at IS NULL AND dead.next_at IS NOT NULL \
             AND dead.floor > excluded.floor THEN dead.next_at ELSE excluded.next_at END",
            rows(self.db.kind(), "$2", &columns),
            by_key(self.db.kind(), "$2", "a.id"),
            is_outdated("a", "$4")
        );
        let work = async {
            let mut tx = self.db.begin().await?;
            if self.db.kind() == Kind::Postgres {
                self.wait_for_appliers(&mut tx, &set).await?;
            }
            let query = sqlx::query(AssertSqlSafe(sql)).bind(self.entity.as_str());
            query.bind(set).bind(now).bind(self.revision).execute(&mut *tx).await?;
            tx.commit().await
        };
        self.db.run(work).await
    }

    /// Waits for transactions that are applying these keys, and makes later ones wait. Otherwise a transaction that has
    /// looked for rows to close but not committed yet would not see the row written here, nor be seen: the row would
    /// stay. On SQLite, writers take turns anyway.
    async fn wait_for_appliers(&self, tx: &mut Tx, set: &str) -> Result<(), sqlx::Error> {
        let set_sql = rows(self.db.kind(), "$2", &[Column::Text("id")]);
        // Rows inserted for missing keys are deleted again before anyone can see them.
        let lock = format!(
            "INSERT INTO nudge_applied AS applied (entity, id, version, deleted, applied_at) \
             SELECT $1, r.id, 0, 0, 0 FROM {set_sql} ORDER BY r.id \
             ON CONFLICT (entity, id) DO UPDATE SET version = applied.version WHERE false"
        );
        let tidy = format!(
            "DELETE FROM nudge_applied WHERE entity = $1 AND version = 0 \
             AND id IN (SELECT r.id FROM {set_sql}) {}",
            by_key(self.db.kind(), "$2", "id")
        );
        for sql in [lock, tidy] {
            let query = sqlx::query(AssertSqlSafe(sql)).bind(self.entity.as_str());
            query.bind(set.to_owned()).execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// Takes up to `limit` due rows, and leases them.
    pub(crate) async fn due(&self, limit: usize) -> Result<Vec<Due>, sqlx::Error> {
        let now = clock::now().unix_micros();
        let sql = "UPDATE nudge_dead_letter SET next_at = $3 WHERE entity = $1 AND id IN \
                   (SELECT id FROM nudge_dead_letter WHERE entity = $1 AND next_at <= $2 ORDER BY next_at LIMIT $4) \
                   RETURNING id, floor, attempts";
        let query = sqlx::query_as(sql)
            .bind(self.entity.as_str())
            .bind(now)
            .bind(now + LEASE.as_micros() as i64)
            .bind(limit as i64);
        let work = async {
            let mut tx = self.db.begin().await?;
            let rows: Vec<(String, i64, i64)> = query.fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(rows)
        };
        let rows = self.db.run(work).await?;
        Ok(rows.into_iter().filter_map(due_row).collect())
    }

    /// Gives every dead letter one more attempt, since a new release may have fixed the cause.
    pub(crate) async fn retry_all(&self) -> Result<u64, sqlx::Error> {
        self.hasten("next_at IS NULL").await
    }

    /// Makes every parked row due, because the owner is back.
    pub(crate) async fn hasten_parked(&self) -> Result<u64, sqlx::Error> {
        self.hasten("next_at IS NOT NULL").await
    }

    async fn hasten(&self, which: &'static str) -> Result<u64, sqlx::Error> {
        let now = clock::now().unix_micros();
        let sql =
            format!("UPDATE nudge_dead_letter SET next_at = $2 WHERE entity = $1 AND {which}");
        self.db.write(sqlx::query(AssertSqlSafe(sql)).bind(self.entity.as_str()).bind(now)).await
    }

    /// Up to `limit` rows after `after`, parked or dead letters, by ID.
    pub(crate) async fn list(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, sqlx::Error> {
        let sql = "SELECT id, floor, error, attempts, first_failed_at, last_failed_at, next_at \
                   FROM nudge_dead_letter WHERE entity = $1 AND id > $2 ORDER BY id LIMIT $3";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(after).bind(limit as i64);
        let rows: Vec<Row> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(|row| row.shown(&self.entity)).collect())
    }

    /// The rows of these IDs, parked or dead letters, in any order.
    pub(crate) async fn of(&self, ids: &[EntityId]) -> Result<Vec<DeadLetter>, sqlx::Error> {
        let sql = format!(
            "SELECT id, floor, error, attempts, first_failed_at, last_failed_at, next_at \
             FROM nudge_dead_letter WHERE entity = $1 AND id IN {}",
            strings(self.db.kind(), "$2")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(serde_json::json!(ids).to_string());
        let rows: Vec<Row> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(|row| row.shown(&self.entity)).collect())
    }

    /// The floor and attempts of one row.
    pub(crate) async fn get(&self, id: &EntityId) -> Result<Option<Due>, sqlx::Error> {
        let sql = "SELECT id, floor, attempts FROM nudge_dead_letter WHERE entity = $1 AND id = $2";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(id.as_str());
        let row = self.db.run(query.fetch_optional(self.db.reader())).await?;
        Ok(row.and_then(due_row))
    }

    /// Whether a key was parked, at least so long ago, because the owner did not know it.
    pub(crate) async fn was_unknown(
        &self,
        id: &EntityId,
        ago: Duration,
    ) -> Result<bool, sqlx::Error> {
        let sql = "SELECT count(*) FROM nudge_dead_letter WHERE entity = $1 AND id = $2 \
                   AND unknown = 1 AND last_failed_at <= $3";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(id.as_str());
        let query = query.bind(clock::now().unix_micros() - ago.as_micros() as i64);
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count > 0)
    }

    /// Removes a row. Returns `false` if there is none.
    pub(crate) async fn discard(&self, id: &EntityId) -> Result<bool, sqlx::Error> {
        let sql = "DELETE FROM nudge_dead_letter WHERE entity = $1 AND id = $2";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(id.as_str());
        let is_gone = self.db.write(query).await? > 0;
        self.counted.forget();
        Ok(is_gone)
    }

    /// How many rows there are. It reads all of them, so a large number may be some time old.
    pub(crate) async fn counts(&self) -> Result<Counts, sqlx::Error> {
        let count = async {
            let sql = "SELECT count(*) AS all_rows, count(next_at) AS parked, \
                       count(CASE WHEN unknown = 1 THEN next_at END) AS unknown \
                       FROM nudge_dead_letter WHERE entity = $1";
            let query = sqlx::query_as(sql).bind(self.entity.as_str());
            let row: CountRow = self.db.run(query.fetch_one(self.db.reader())).await?;
            let counts = Counts {
                parked: row.parked as u64,
                dead_letters: (row.all_rows - row.parked) as u64,
                unknown: row.unknown as u64,
            };
            Ok((counts, row.all_rows as u64))
        };
        self.counted.get(count).await
    }

    /// Whether a parked row is due.
    pub(crate) async fn is_due(&self) -> Result<bool, sqlx::Error> {
        let sql = "SELECT 1 FROM nudge_dead_letter WHERE entity = $1 AND next_at <= $2 \
                   ORDER BY next_at LIMIT 1";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(clock::now().unix_micros());
        Ok(self.db.run(query.fetch_optional(self.db.reader())).await?.is_some())
    }

    /// Gives up parked keys that the owner does not know and that are not applied here: those that are due after
    /// `max_attempts` attempts, and as many more as exceed `max_keys`, those with most attempts first. Returns how many were
    /// given up.
    pub(crate) async fn give_up_unknown(
        &self,
        max_attempts: u32,
        max_keys: u64,
    ) -> Result<u64, sqlx::Error> {
        const UNKNOWN: &str = "dead.entity = $1 AND dead.unknown = 1 AND NOT EXISTS \
            (SELECT 1 FROM nudge_applied a WHERE a.entity = $1 AND a.id = dead.id AND a.deleted = 0)";
        let tried = format!(
            "DELETE FROM nudge_dead_letter AS dead WHERE {UNKNOWN} \
             AND dead.attempts >= $2 AND dead.next_at <= $3"
        );
        let tried = sqlx::query(AssertSqlSafe(tried)).bind(self.entity.as_str());
        let tried = tried.bind(i64::from(max_attempts)).bind(clock::now().unix_micros());
        let mut given_up = self.db.write(tried).await?;
        if given_up > 0 {
            self.counted.forget();
        }
        let surplus = self.counts().await?.unknown.saturating_sub(max_keys);
        if surplus > 0 {
            let most = format!(
                "DELETE FROM nudge_dead_letter WHERE entity = $1 AND id IN \
                 (SELECT dead.id FROM nudge_dead_letter AS dead WHERE {UNKNOWN} AND dead.next_at IS NOT NULL \
                  ORDER BY dead.attempts DESC, dead.last_failed_at, dead.id LIMIT $2)"
            );
            let most = sqlx::query(AssertSqlSafe(most)).bind(self.entity.as_str());
            given_up += self.db.write(most.bind(surplus as i64)).await?;
        }
        if given_up > 0 {
            self.counted.forget();
        }
        Ok(given_up)
    }
}

row! {
    struct CountRow {
        all_rows: i64,
        parked: i64,
        unknown: i64,
    }
}

fn due_row((id, floor, attempts): (String, i64, i64)) -> Option<Due> {
    Some(Due {
        id: EntityId::new(&id).ok()?,
        floor: Version::try_from(floor).ok()?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
    })
}

/// The beginning of an error, at most so many bytes of it.
pub(crate) fn shortened(error: &str, max_bytes: usize) -> &str {
    let mut end = error.len().min(max_bytes);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    &error[..end]
}

#[cfg(test)]
mod tests {
    use nudge_testbed::TestDatabase;

    use super::*;
    use crate::apply::NO_REVISION;

    /// Runs a test on an empty table of each kind of database.
    async fn on_each(test: impl AsyncFn(&DeadLetters)) {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let database = TestDatabase::of(kind).await;
            let db = database.open().await;
            db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
            let entity = EntityName::new("store").unwrap();
            test(&DeadLetters::new(db.clone(), entity, NO_REVISION)).await;
            db.close().await;
        }
    }

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn parking(floor: u64, retry_after: Option<Duration>) -> Parking {
        Parking {
            id: EntityId::new("42").unwrap(),
            floor: v(floor),
            answered: Version::NONE,
            error: "refused".to_owned(),
            attempts: 1,
            retry_after,
            unknown: false,
        }
    }

    /// A key whose answer with this version was refused.
    fn refused(answered: u64) -> Parking {
        Parking { answered: v(answered), ..parking(answered, None) }
    }

    const APPLY: &str = "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at, revised_version) \
                         VALUES ('store', '42', $1, 0, 0, $1) ON CONFLICT (entity, id) \
                         DO UPDATE SET version = excluded.version, revised_version = excluded.version";

    async fn rows_in(table: &DeadLetters) -> u64 {
        let counts = table.counts().await.unwrap();
        counts.parked + counts.dead_letters
    }

    #[tokio::test]
    async fn a_late_refusal_of_an_older_version_does_not_end_the_tries_for_a_newer_one() {
        on_each(async |table| {
            table.park(&[parking(2, Some(Duration::ZERO))]).await.unwrap();
            table.park(&[parking(1, None)]).await.unwrap();
            let counts = table.counts().await.unwrap();
            assert_eq!(counts, Counts { parked: 1, ..Counts::default() });
            assert!(table.is_due().await.unwrap());
            assert_eq!(table.due(10).await.unwrap()[0].floor, v(2));
            // A refusal of the same version or of a later one does.
            table.park(&[parking(3, None)]).await.unwrap();
            let counts = table.counts().await.unwrap();
            assert_eq!(counts, Counts { dead_letters: 1, ..Counts::default() });
            assert!(!table.is_due().await.unwrap());
        })
        .await;
    }

    #[tokio::test]
    async fn what_another_replica_has_applied_at_that_version_or_later_is_not_parked() {
        on_each(async |table| {
            table.db.write(sqlx::query(APPLY).bind(5)).await.unwrap();
            for overtaken in [4, 5] {
                table.park(&[refused(overtaken)]).await.unwrap();
                assert_eq!(rows_in(table).await, 0, "{overtaken}");
            }
            // Unless it was to be applied again.
            let outdate = sqlx::query("UPDATE nudge_applied SET revised_version = -1");
            table.db.write(outdate).await.unwrap();
            table.park(&[refused(4)]).await.unwrap();
            assert_eq!(rows_in(table).await, 0);
            for refused_at in [5, 6] {
                table.park(&[refused(refused_at)]).await.unwrap();
                assert_eq!(rows_in(table).await, 1, "{refused_at}");
            }
        })
        .await;
    }

    /// The version of a message may be lower than that of the change that it replaced.
    #[tokio::test]
    async fn what_a_message_said_does_not_keep_a_key_out_of_the_table() {
        on_each(async |table| {
            table.db.write(sqlx::query(APPLY).bind(5)).await.unwrap();
            table.park(&[parking(4, Some(Duration::ZERO))]).await.unwrap();
            assert_eq!(rows_in(table).await, 1);
        })
        .await;
    }

    /// The applying transaction has looked for rows to close, but has not committed yet.
    #[tokio::test]
    async fn a_key_that_is_being_applied_is_parked_after_that_or_not_at_all() {
        on_each(async |table| {
            // First without a row in `nudge_applied`, then with one.
            for version in [5, 6] {
                let mut applying = table.db.begin().await.unwrap();
                sqlx::query(APPLY).bind(version).execute(&mut *applying).await.unwrap();
                let refusal = [refused(version as u64)];
                let parking = table.park(&refusal);
                tokio::pin!(parking);
                let soon = tokio::time::timeout(Duration::from_millis(200), &mut parking).await;
                assert!(soon.is_err(), "it waits");
                applying.commit().await.unwrap();
                parking.await.unwrap();
                assert_eq!(rows_in(table).await, 0);
            }
            table.park(&[refused(7)]).await.unwrap();
            let sql = "SELECT count(*) FROM nudge_applied WHERE version <> 6";
            let (others,): (i64,) = sqlx::query_as(sql).fetch_one(table.db.reader()).await.unwrap();
            assert_eq!((rows_in(table).await, others), (1, 0), "waiting leaves nothing behind");
        })
        .await;
    }

    #[tokio::test]
    async fn a_row_that_is_due_is_handed_out_once() {
        on_each(async |table| {
            table.park(&[parking(2, Some(Duration::ZERO))]).await.unwrap();
            assert_eq!(table.due(10).await.unwrap().len(), 1);
            assert!(table.due(10).await.unwrap().is_empty(), "it is on its way");
            // Unless it was lost on its way.
            assert_eq!(table.hasten_parked().await.unwrap(), 1);
            assert_eq!(table.due(10).await.unwrap().len(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn only_what_was_parked_as_unknown_long_enough_ago_was_unknown_before() {
        on_each(async |table| {
            let (id, hour) = (EntityId::new("42").unwrap(), Duration::from_secs(3_600));
            let was = async |ago| table.was_unknown(&id, ago).await.unwrap();
            assert!(!was(Duration::ZERO).await, "it is not parked");
            let unknown = |unknown| Parking { unknown, ..parking(1, Some(Duration::ZERO)) };
            for is_unknown in [true, false, true] {
                table.park(&[unknown(is_unknown)]).await.unwrap();
                assert_eq!(was(Duration::ZERO).await, is_unknown);
                assert!(!was(hour).await, "that is no second look");
            }
        })
        .await;
    }
}
