//! An owner that was restored from a backup: its stream shows versions that its change log does not
//! have.
//!
//! Subscribers may hold those versions, and take nothing older. So each entity concerned is given a
//! fresh version, above the one that the stream shows, and everyone comes back to what the owner now
//! says. What was made after the backup is a tombstone in the log. Idea: the log of a replicated state
//! machine, whose new leader writes an entry of its own term before it serves.

use nudge_protocol::Version;
use nudge_runtime::{
    clock,
    database::Kind,
    set_sql::{Column, rows},
};
use sqlx::AssertSqlSafe;

use super::{ChangeLog, outbox::Published};

/// The statements: which versions the log does not have, and fresh ones for their entities.
#[derive(Debug)]
pub(super) struct Sql {
    count: String,
    renew: String,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let shown = rows(kind, "$2", &[Column::Text("id"), Column::Int("version")]);
        let lacking = format!(
            "{shown} LEFT JOIN nudge_change_log AS known ON known.entity = $1 AND known.id = r.id \
             WHERE r.version > COALESCE(known.version, 0)"
        );
        let fresh = "CASE WHEN r.version >= $3 THEN r.version + 1 ELSE $3 END AS fresh";
        let count = format!("SELECT count(*) FROM {lacking}");
        let renew = match kind {
            Kind::Sqlite => format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, changed_at) \
                 SELECT $1, r.id, {fresh}, 'deleted', 1, $3 FROM {lacking} ORDER BY r.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 version = excluded.version, changed_at = excluded.changed_at"
            ),
            // Rows that a writer has locked are left for the next time, as everywhere in the relay.
            Kind::Postgres => format!(
                "WITH lacking AS (SELECT r.id, {fresh} FROM {lacking}), \
                 free AS (SELECT log.id, lacking.fresh FROM lacking \
                 JOIN nudge_change_log AS log ON log.entity = $1 AND log.id = lacking.id \
                 FOR NO KEY UPDATE OF log SKIP LOCKED), \
                 renewed AS (UPDATE nudge_change_log AS log \
                 SET version = free.fresh, changed_at = $3 FROM free \
                 WHERE log.entity = $1 AND log.id = free.id AND log.version < free.fresh) \
                 INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
                 SELECT $1, lacking.id, lacking.fresh, 'deleted', 1, $3 FROM lacking \
                 WHERE NOT EXISTS (SELECT 1 FROM nudge_change_log AS known \
                 WHERE known.entity = $1 AND known.id = lacking.id) \
                 ORDER BY lacking.id ON CONFLICT DO NOTHING"
            ),
        };
        Self { count, renew }
    }
}

impl ChangeLog {
    /// Gives fresh versions to entities that the stream shows in one that this log does not have.
    /// Returns how many there were, and how many are left because a writer has them locked.
    pub(crate) async fn renew(&self, shown: &[Published]) -> Result<(u64, u64), sqlx::Error> {
        let now = clock::now();
        let limit = Version::highest_believed(now);
        let shown: Vec<_> = shown.iter().filter(|one| one.version <= limit).collect();
        let json = serde_json::json!(shown).to_string();
        let lacking = self.count_lacking(&json).await?;
        if lacking == 0 {
            return Ok((0, 0));
        }
        let query = sqlx::query(AssertSqlSafe(self.sql.restored.renew.clone()));
        let query = query.bind(self.entity.as_str()).bind(json.clone()).bind(now.unix_micros());
        self.db.write_skipping_locked(query).await?;
        Ok((lacking, self.count_lacking(&json).await?))
    }

    async fn count_lacking(&self, shown: &str) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.restored.count.clone()));
        let query = query.bind(self.entity.as_str()).bind(shown.to_owned());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }
}
