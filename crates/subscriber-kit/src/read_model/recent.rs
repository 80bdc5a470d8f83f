//! The versions that this program has recently found in the read model or written to it. They show whether the database
//! has lost something: an older copy was restored, or a standby took over that lacked the last commits. The broker
//! counts these messages as handled and would not redeliver them.
//!
//! All of them are remembered until the position has moved on, since a copy with that position has them all. A sample
//! would not be enough, since exactly those entities may have changed again right afterwards.

use std::collections::BTreeMap;

use nudge_protocol::{EntityId, EntityName, Version};
use nudge_runtime::{
    Database,
    database::Kind,
    set_sql::{Column, by_key, rows},
};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use sqlx::{Any, AssertSqlSafe, Executor};

/// Maximum number of entities remembered. Beyond it, some are dropped.
const MAX_RECENT: usize = 1_024;

/// Entities with versions that the database had. It must never have older ones again.
pub(crate) type Applied = BTreeMap<EntityId, Version>;

#[derive(Debug)]
pub(crate) struct Recent {
    db: Database,
    entity: EntityName,
    applied: Mutex<Applied>,
}

impl Recent {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        Self { db, entity, applied: Mutex::default() }
    }

    /// Notes that the database has these versions or later ones.
    pub(crate) fn note(&self, entities: impl Iterator<Item = (EntityId, Version)>) {
        let mut applied = self.applied();
        for (id, version) in entities {
            let newest = applied.entry(id).or_default();
            *newest = version.max(*newest);
            if applied.len() > MAX_RECENT {
                applied.pop_first();
            }
        }
    }

    /// Everything that is remembered now.
    pub(crate) fn so_far(&self) -> Applied {
        self.applied().clone()
    }

    /// Whether the database still has these versions or later ones. To be run by [`Database::run`].
    pub(crate) async fn are_kept(
        &self,
        applied: &Applied,
        at: impl Executor<'_, Database = Any>,
    ) -> Result<bool, sqlx::Error> {
        if applied.is_empty() {
            return Ok(true);
        }
        let row = |(id, version)| json!({"id": id, "version": version});
        let query = sqlx::query_as(AssertSqlSafe(kept(self.db.kind()))).bind(self.entity.as_str());
        let query = query.bind(Value::from_iter(applied.iter().map(row)).to_string());
        let (count,): (i64,) = query.fetch_one(at).await?;
        Ok(count.cast_unsigned() == applied.len() as u64)
    }

    /// Forgets these, except for those that have become newer.
    pub(crate) fn forget(&self, applied: &Applied) {
        self.applied().retain(|id, version| applied.get(id) != Some(version));
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock()
    }
}

/// Counts those of a set that the read model has, in these versions or later ones.
fn kept(kind: Kind) -> String {
    let set = rows(kind, "$2", &[Column::Text("id"), Column::Int("version")]);
    format!(
        "SELECT count(*) FROM {set} CROSS JOIN nudge_applied AS applied WHERE applied.entity = $1 \
         AND applied.id = r.id AND applied.version >= r.version {}",
        by_key(kind, "$2", "applied.id")
    )
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;
    use nudge_testbed::TestDatabase;

    use super::*;

    mod once {
        use super::*;

        /// It is looked up twenty times a second while a read model is filled, before there are statistics.
        #[tokio::test]
        async fn a_read_model_that_was_filled_a_moment_ago_is_read_by_key() {
            let database = TestDatabase::of(Kind::Postgres).await;
            let db = database.open().await;
            db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
            // In one transaction, so that nobody analyzes it.
            let mut tx = db.begin().await.unwrap();
            let fill = "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) \
                        SELECT 'store', 's' || n, n, 0, 0 FROM generate_series(1, 50000) AS n";
            sqlx::query(fill).execute(&mut *tx).await.unwrap();
            let explain = format!("EXPLAIN {}", kept(Kind::Postgres));
            let plan: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(explain))
                .bind("store")
                .bind(r#"[{"id":"s7","version":7}]"#)
                .fetch_all(&mut *tx)
                .await
                .unwrap();
            let plan: Vec<_> = plan.into_iter().map(|(line,)| line).collect();
            let by_key = |line: &String| line.contains("Index Cond") && line.contains("(id = ");
            assert!(plan.iter().any(by_key), "{}", plan.join("\n"));
        }
    }

    fn at(id: &str, version: u64) -> (EntityId, Version) {
        (EntityId::new(id).unwrap(), Version::new(version).unwrap())
    }

    #[tokio::test]
    async fn what_became_newer_meanwhile_is_remembered() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        let recent = Recent::new(db, EntityName::new("store").unwrap());
        recent.note([at("a", 1), at("b", 1), at("a", 1)].into_iter());
        let so_far = recent.so_far();
        recent.note([at("a", 2), at("c", 1)].into_iter());
        recent.forget(&so_far);
        assert_eq!(recent.so_far(), Applied::from([at("a", 2), at("c", 1)]));
        recent.note([at("a", 1)].into_iter());
        assert_eq!(recent.so_far(), Applied::from([at("a", 2), at("c", 1)]), "the newest of each");
    }
}
