//! What the change log holds of single entities, for people and tools that ask.

use std::{collections::HashMap, sync::Arc};

use nudge_protocol::{EntityId, Timestamp, Version, admin::RecordedVersion};
use nudge_runtime::{database::Kind, row, set_sql::strings};
use sqlx::AssertSqlSafe;

use super::{ChangeLog, VERSION_COLUMNS, decode};

/// The statement, written once.
pub(super) fn sql(kind: Kind) -> Arc<str> {
    let ids = strings(kind, "$2");
    format!(
        "SELECT id, {VERSION_COLUMNS}, published_version, published_seq \
         FROM nudge_change_log WHERE entity = $1 AND id IN {ids}"
    )
    .into()
}

row! {
    struct SingleRow {
        id: String,
        version: i64,
        deleted: i64,
        changed_at: i64,
        stranger_version: i64,
        never_existed_version: i64,
        published_version: i64,
        published_seq: i64,
    }
}

impl SingleRow {
    fn read(self) -> Result<(EntityId, RecordedVersion), sqlx::Error> {
        let version: Version = decode(Version::try_from(self.version))?;
        let published_version = decode(Version::try_from(self.published_version))?;
        let published_version = Some(published_version).filter(|one| *one > Version::NONE);
        let deleted = self.deleted != 0;
        let recorded = RecordedVersion {
            version,
            deleted,
            changed_at: Timestamp::from_unix_micros(self.changed_at),
            pending: published_version != Some(version),
            published_version,
            // Without a version, it only says which acknowledgements no longer count.
            sequence: published_version.and_then(|_| u64::try_from(self.published_seq).ok()),
            never_existed: deleted
                && [self.stranger_version, self.never_existed_version].contains(&self.version),
        };
        Ok((decode(EntityId::new(&self.id))?, recorded))
    }
}

impl ChangeLog {
    /// The rows of those of `ids` that have one.
    pub(crate) async fn single(
        &self,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, RecordedVersion>, sqlx::Error> {
        let look = || {
            let query =
                sqlx::query_as(AssertSqlSafe(self.sql.single.clone())).bind(self.entity.as_str());
            query.bind(serde_json::json!(ids).to_string()).fetch_all(self.db.reader())
        };
        let rows: Vec<SingleRow> = self.db.run_afresh(look).await?;
        rows.into_iter().map(SingleRow::read).collect()
    }
}
