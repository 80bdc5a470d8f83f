//! What this program committed to the read model lately, to notice that the database lost it: an older
//! copy of it was put back, or a server took over that lacked the last commits. The broker counts that
//! as handled and would not bring it again.

use std::sync::{Mutex, MutexGuard};

use nudge_protocol::{EntityId, EntityName, Version};
use nudge_runtime::{
    Database,
    set_sql::{Column, rows},
};
use serde::Serialize;
use sqlx::AssertSqlSafe;

/// Most commits that are remembered between two looks; further ones replace the last.
const MAX_RECENT_COMMITS: usize = 256;

/// One entity of a commit. None is ever taken out of `nudge_applied`, and its version only rises.
#[derive(Clone, Debug, Serialize)]
struct Commit {
    id: EntityId,
    version: Version,
}

#[derive(Debug)]
pub(crate) struct Recent {
    db: Database,
    entity: EntityName,
    /// The last that was found in the database, and those since.
    commits: Mutex<Vec<Commit>>,
}

impl Recent {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        Self { db, entity, commits: Mutex::default() }
    }

    /// Remembers a commit by one of its entities.
    pub(crate) fn note(&self, id: &EntityId, version: Version) {
        let mut commits = self.commits();
        commits.truncate(MAX_RECENT_COMMITS - 1);
        commits.push(Commit { id: id.clone(), version });
    }

    /// Whether the database still has it all. If not, it is forgotten here, too.
    pub(crate) async fn is_kept(&self) -> Result<bool, sqlx::Error> {
        let commits = self.commits().clone();
        if commits.is_empty() {
            return Ok(true);
        }
        let set = rows(self.db.kind(), "$2", &[Column::Text("id"), Column::Int("version")]);
        let sql = format!(
            "SELECT count(*) FROM {set} CROSS JOIN nudge_applied AS applied \
             WHERE applied.entity = $1 AND applied.id = r.id AND applied.version >= r.version"
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(serde_json::json!(commits).to_string());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        let kept = count.cast_unsigned() == commits.len() as u64;
        let looked_at = if kept { commits.len() - 1 } else { commits.len() };
        let mut commits = self.commits();
        let looked_at = looked_at.min(commits.len());
        commits.drain(..looked_at);
        Ok(kept)
    }

    fn commits(&self) -> MutexGuard<'_, Vec<Commit>> {
        self.commits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
