//! An end for parked keys that no retry can finish, because the owner denies what they wait for: a version that it lost
//! in a restore, or an ID that it does not know. That both sides have the same, with nothing else in flight, is the proof.

use std::collections::HashSet;

use nudge_protocol::{
    EntityId, Version,
    digest::{Held, Range},
};
use nudge_runtime::{BoxError, mutated, row};
use sqlx::AssertSqlSafe;

use super::{Resync, rows::Rows};

/// Most parked keys looked at for one page. The next comparison finds the others.
const MAX_PARKED: i64 = 1_000;

row! {
    struct Parked { id: String, floor: i64, unknown: i64, version: Option<i64> }
}

impl Resync {
    /// Ends the wait of parked keys in a range that was compared, except for these, which differ or are in flight.
    pub(super) async fn end_by_proof(
        &self,
        range: &Range,
        except: &HashSet<EntityId>,
    ) -> Result<(), BoxError> {
        let mut report = Vec::new();
        let parked = self.rows.parked(range).await?;
        for Parked { id, floor, unknown, version } in mutated!(DeniedKeysKept: parked => Vec::new())
        {
            let (Ok(id), Ok(floor_version)) = (EntityId::new(&id), Version::try_from(floor)) else {
                continue;
            };
            match version {
                _ if except.contains(&id) => {}
                // The owner has this version, not the one that the key waits for. It gives a fresh one above.
                Some(version) if version < floor => {
                    report.push(Held { id, version: floor_version });
                }
                None if unknown != 0 => {
                    self.progress.given_up.inc_by(self.rows.give_up(&id, floor).await?);
                }
                _ => {}
            }
        }
        if !report.is_empty() && self.renew(report.clone()).await? {
            for Held { id, version } in report {
                self.enqueue(id, version).await?;
            }
        }
        Ok(())
    }
}

impl Rows {
    /// Parked keys in a range, each with the version that is applied.
    async fn parked(&self, range: &Range) -> Result<Vec<Parked>, sqlx::Error> {
        let to = if range.to.is_some() { "AND dead.id <= $4 " } else { "" };
        let sql = format!(
            "SELECT dead.id, dead.floor, dead.unknown, applied.version FROM nudge_dead_letter AS dead \
             LEFT JOIN nudge_applied AS applied ON applied.entity = dead.entity AND applied.id = dead.id \
             WHERE dead.entity = $1 AND dead.id > $2 {to}AND dead.next_at IS NOT NULL ORDER BY dead.id LIMIT $3"
        );
        let after = range.after.as_ref().map_or("", EntityId::as_str).to_owned();
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(after).bind(MAX_PARKED);
        let query = match &range.to {
            Some(to) => query.bind(to.as_str()),
            None => query,
        };
        self.db.run(query.fetch_all(self.db.reader())).await
    }

    /// Gives up a parked key that neither side has, unless it waits for more by now.
    async fn give_up(&self, id: &EntityId, floor: i64) -> Result<u64, sqlx::Error> {
        let sql = "DELETE FROM nudge_dead_letter WHERE entity = $1 AND id = $2 AND floor = $3 AND unknown = 1";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(id.as_str());
        self.db.write(query.bind(floor)).await
    }
}
