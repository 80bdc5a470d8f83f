//! The revision of the read model by which each row was applied, and the revision that counts.
//!
//! Replicas of two releases would undo each other's refills. So only one revision counts: that of the replica that
//! started last, as long as any replica with this revision runs.

use std::time::Duration;

use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::{Database, clock};
use sqlx::AssertSqlSafe;

use crate::apply::NO_REVISION;

/// A revision that was not claimed for this long no longer counts. Well above the time between two claims.
const GONE_AFTER: Duration = Duration::from_secs(300);

const CLAIM: &str = "INSERT INTO nudge_revision AS counts (entity, revision, seen_at) VALUES ($1, $2, $3) \
    ON CONFLICT (entity) DO UPDATE SET revision = excluded.revision, seen_at = excluded.seen_at \
    WHERE counts.revision = excluded.revision OR counts.seen_at < $4";
/// The `revised_version` of a row that is to be applied again, whatever its revision.
pub(crate) const AGAIN: i64 = -1;

/// A condition: whether a row of `nudge_applied` is to be applied again in the same version, by the revision in this
/// parameter. It is of another revision, or written since by a release without revisions, or marked for that.
pub(crate) fn is_outdated(row: &str, revision: &str) -> String {
    format!(
        "({row}.revised_version < 0 OR {revision} <> {NO_REVISION} \
         AND ({row}.revision <> {revision} OR {row}.revised_version <> {row}.version))"
    )
}

/// A condition: whether the entity of a row of `nudge_applied` is neither parked nor a dead letter. Those are retried
/// as such.
pub(crate) fn is_not_set_aside(row: &str) -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM nudge_dead_letter AS dead \
         WHERE dead.entity = {row}.entity AND dead.id = {row}.id)"
    )
}

/// A revision of one entity's read model.
#[derive(Clone, Debug)]
pub(crate) struct Revisions {
    pub(crate) db: Database,
    pub(crate) entity: EntityName,
    pub(crate) revision: i64,
}

impl Revisions {
    /// Says that this revision is in use, and returns whether it counts. If `starts`, it does from now on.
    pub(crate) async fn claim(&self, starts: bool) -> Result<bool, sqlx::Error> {
        let now = clock::now().unix_micros();
        let gone = i64::try_from(GONE_AFTER.as_micros()).unwrap_or(i64::MAX);
        let before = if starts { i64::MAX } else { now.saturating_sub(gone) };
        let query = sqlx::query(CLAIM).bind(self.entity.to_string()).bind(self.revision);
        Ok(self.db.write(query.bind(now).bind(before)).await? > 0)
    }

    /// The next IDs after `after` that must be read again. What is parked or a dead letter is retried as such, so it is
    /// left out, unless `set_aside`.
    pub(crate) async fn outdated(
        &self,
        after: &str,
        limit: usize,
        set_aside: bool,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        // Deleted entities have nothing to fill.
        let sql = format!(
            "SELECT id FROM nudge_applied AS applied WHERE entity = $1 AND id > $2 AND deleted = 0 \
             AND {} AND ($5 = 1 OR {}) ORDER BY id LIMIT $4",
            is_outdated("applied", "$3"),
            is_not_set_aside("applied")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str()).bind(after);
        let query = query.bind(self.revision).bind(limit as i64).bind(i64::from(set_aside));
        let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(|(id,)| EntityId::new(&id).ok()).collect())
    }

    /// Number of outdated rows after `after` and up to `last`.
    pub(crate) async fn left(&self, after: &str, last: &EntityId) -> Result<u64, sqlx::Error> {
        let sql = format!(
            "SELECT count(*) FROM nudge_applied AS applied WHERE entity = $1 AND id > $2 AND id <= $3 \
             AND deleted = 0 AND {} AND {}",
            is_outdated("applied", "$4"),
            is_not_set_aside("applied")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str()).bind(after);
        let query = query.bind(last.as_str()).bind(self.revision);
        let (left,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(left.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;

    use super::*;

    #[tokio::test]
    async fn the_revision_started_last_counts_until_nothing_is_heard_of_it() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
        let of = |revision| {
            let entity = EntityName::new("store").unwrap();
            Revisions { db: db.clone(), entity, revision }
        };
        let (older, newer) = (of(7), of(3));
        assert!(older.claim(true).await.unwrap());
        assert!(older.claim(false).await.unwrap());
        assert!(newer.claim(true).await.unwrap());
        assert!(!older.claim(false).await.unwrap());
        assert!(newer.claim(false).await.unwrap());
        // Not claimed for so long that it no longer counts.
        let sql = "UPDATE nudge_revision SET seen_at = seen_at - 301000000";
        db.write(sqlx::query(sql)).await.unwrap();
        assert!(older.claim(false).await.unwrap());
        assert!(!newer.claim(false).await.unwrap());
    }

    /// Whatever a release cannot apply would be asked for in every pass.
    #[tokio::test]
    async fn what_is_a_dead_letter_is_read_again_only_once() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
        let revisions =
            Revisions { db: db.clone(), entity: EntityName::new("store").unwrap(), revision: 7 };
        for sql in [
            "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) \
             VALUES ('store', '1', 1, 0, 0), ('store', '2', 1, 0, 0)",
            "INSERT INTO nudge_dead_letter \
             (entity, id, floor, error, attempts, first_failed_at, last_failed_at) \
             VALUES ('store', '2', 1, '', 1, 0, 0)",
        ] {
            db.write(sqlx::query(sql)).await.unwrap();
        }
        let [first, second] = ["1", "2"].map(|id| EntityId::new(id).unwrap());
        assert_eq!(revisions.outdated("", 9, true).await.unwrap(), [first.clone(), second.clone()]);
        assert_eq!(revisions.outdated("", 9, false).await.unwrap(), [first]);
        assert_eq!(revisions.left("", &second).await.unwrap(), 1);
    }
}
