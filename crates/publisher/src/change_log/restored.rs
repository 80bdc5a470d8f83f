//! An owner that was restored from a backup: its stream shows versions that its change log does not
//! have.
//!
//! Subscribers may hold those versions, and accept nothing older. So each affected entity gets a
//! fresh version, above the one in the stream, and every copy returns to what the owner now
//! says. What was created after the backup becomes a tombstone in the log: see `never_existed.rs`. The idea is that of a replicated state
//! machine's log, in which a new leader writes an entry of its own term before it serves.

use std::collections::HashSet;

use nudge_protocol::Version;
use nudge_runtime::{
    clock,
    database::Kind,
    set_sql::{Column, rows},
};
use sqlx::AssertSqlSafe;

use super::{ChangeLog, outbox::Published};

/// What [`ChangeLog::renew`] did.
#[derive(Debug, Default)]
pub(crate) struct Renewed {
    /// Entities that got a fresh version, including [`strangers`](Self::strangers).
    pub(crate) renewed: u64,
    /// IDs that the log did not know and that now have a tombstone.
    pub(crate) strangers: u64,
    /// Entities that were skipped because a writer has them locked.
    pub(crate) left: u64,
    /// IDs that the log does not know and that were not allowed a tombstone.
    pub(crate) deferred: Vec<Published>,
}

/// The statements: versions and IDs that the log lacks, and fresh versions for them.
#[derive(Debug)]
pub(super) struct Sql {
    count: String,
    unknown: String,
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
        let unknown = format!("SELECT r.id FROM {lacking} AND known.id IS NULL");
        // An ID keeps its flags.
        let keep = |column: &str, fresh: &str| {
            format!(
                "{column} = CASE WHEN log.{column} = log.version THEN {fresh} ELSE log.{column} END"
            )
        };
        let said = |fresh: &str| {
            format!("{}, {}", keep("stranger_version", fresh), keep("never_existed_version", fresh))
        };
        let columns = "entity, id, version, change, deleted, changed_at, stranger_version";
        let renew = match kind {
            Kind::Sqlite => format!(
                "INSERT INTO nudge_change_log AS log ({columns}) \
                 SELECT $1, it.id, it.fresh, 'deleted', 1, $3, it.fresh \
                 FROM (SELECT r.id, {fresh} FROM {lacking}) AS it WHERE true ORDER BY it.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 version = excluded.version, changed_at = excluded.changed_at, {}",
                said("excluded.version")
            ),
            // Rows that a writer has locked are skipped until the next time, as everywhere in the relay.
            Kind::Postgres => format!(
                "WITH lacking AS (SELECT r.id, {fresh} FROM {lacking}), \
                 free AS (SELECT log.id, lacking.fresh FROM lacking \
                 JOIN nudge_change_log AS log ON log.entity = $1 AND log.id = lacking.id \
                 FOR NO KEY UPDATE OF log SKIP LOCKED), \
                 renewed AS (UPDATE nudge_change_log AS log \
                 SET version = free.fresh, changed_at = $3, {} FROM free \
                 WHERE log.entity = $1 AND log.id = free.id AND log.version < free.fresh) \
                 INSERT INTO nudge_change_log ({columns}) \
                 SELECT $1, lacking.id, lacking.fresh, 'deleted', 1, $3, lacking.fresh FROM lacking \
                 WHERE NOT EXISTS (SELECT 1 FROM nudge_change_log AS known \
                 WHERE known.entity = $1 AND known.id = lacking.id) \
                 ORDER BY lacking.id ON CONFLICT DO NOTHING",
                said("free.fresh")
            ),
        };
        Self { count, unknown, renew }
    }
}

impl ChangeLog {
    /// Gives fresh versions to entities whose version in the stream this log does not have; of IDs that it
    /// does not know at all, to at most `allowed`. Each ID occurs in `shown` once.
    pub(crate) async fn renew(
        &self,
        shown: &[Published],
        most_strangers: usize,
    ) -> Result<Renewed, sqlx::Error> {
        let now = clock::now();
        let limit = Version::highest_believed(now);
        let shown: Vec<_> = shown.iter().filter(|one| one.version <= limit).collect();
        let json = serde_json::json!(shown).to_string();
        let lacking = self.count_lacking(&json).await?;
        if lacking == 0 {
            return Ok(Renewed::default());
        }
        let unknown = self.unknown(&json).await?;
        let (mut strangers, mut deferred) = (0, Vec::new());
        let mut may = |one: &&Published| match unknown.contains(one.id.as_str()) {
            true if strangers == most_strangers => {
                deferred.push((*one).clone());
                false
            }
            is_unknown => {
                strangers += usize::from(is_unknown);
                true
            }
        };
        let shown: Vec<_> = shown.into_iter().filter(|one| may(one)).collect();
        let json = serde_json::json!(shown).to_string();
        let query = sqlx::query(AssertSqlSafe(self.sql.restored.renew.clone()));
        let query = query.bind(self.entity.as_str()).bind(json.clone()).bind(now.unix_micros());
        self.db.write_skipping_locked(query).await?;
        let left = self.count_lacking(&json).await?;
        let renewed = lacking.saturating_sub(deferred.len() as u64);
        Ok(Renewed { renewed, strangers: strangers as u64, left, deferred })
    }

    async fn unknown(&self, shown: &str) -> Result<HashSet<String>, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.restored.unknown.clone()));
        let query = query.bind(self.entity.as_str()).bind(shown.to_owned());
        let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    async fn count_lacking(&self, shown: &str) -> Result<u64, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.restored.count.clone()));
        let query = query.bind(self.entity.as_str()).bind(shown.to_owned());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count as u64)
    }
}
