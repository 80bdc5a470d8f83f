//! The revision of the read model by which each row was applied, and the revision that counts.
//!
//! Replicas of two releases would undo each other's refills. So only one revision counts: that of the replica that
//! started last, as long as any replica with this revision runs.

use std::time::Duration;

use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::{Database, clock};

/// A revision that was not claimed for this long no longer counts. Well above the time between two claims.
const GONE_AFTER: Duration = Duration::from_secs(300);

const CLAIM: &str = "INSERT INTO nudge_revision AS counts (entity, revision, seen_at) VALUES ($1, $2, $3) \
    ON CONFLICT (entity) DO UPDATE SET revision = excluded.revision, seen_at = excluded.seen_at \
    WHERE counts.revision = excluded.revision OR counts.seen_at < $4";
/// Rows of another revision, or written since by a release without revisions. Deleted entities have nothing to fill.
const OUTDATED: &str = "SELECT id FROM nudge_applied WHERE entity = $1 AND id > $2 AND deleted = 0 \
    AND (revision <> $3 OR revised_version <> version) ORDER BY id LIMIT $4";
const LEFT: &str = "SELECT count(*) FROM nudge_applied WHERE entity = $1 AND id > $2 AND id <= $3 AND deleted = 0 \
    AND (revision <> $4 OR revised_version <> version)";

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

    /// The next IDs after `after` that must be read again.
    pub(crate) async fn outdated(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        let query = sqlx::query_as(OUTDATED).bind(self.entity.as_str()).bind(after);
        let query = query.bind(self.revision).bind(limit as i64);
        let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(|(id,)| EntityId::new(&id).ok()).collect())
    }

    /// Number of outdated rows after `after` and up to `last`.
    pub(crate) async fn left(&self, after: &str, last: &EntityId) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(LEFT).bind(self.entity.as_str()).bind(after);
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
}
