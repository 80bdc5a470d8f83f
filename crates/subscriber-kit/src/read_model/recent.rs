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
    set_sql::{Column, rows},
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
        let set = rows(self.db.kind(), "$2", &[Column::Text("id"), Column::Int("version")]);
        let sql = format!(
            "SELECT count(*) FROM {set} CROSS JOIN nudge_applied AS applied \
             WHERE applied.entity = $1 AND applied.id = r.id AND applied.version >= r.version"
        );
        let row = |(id, version)| json!({"id": id, "version": version});
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
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

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;

    use super::*;

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
