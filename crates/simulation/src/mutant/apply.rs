//! Faults between the guard and a service's own `apply`.

use std::collections::HashMap;

use nudge_protocol::EntityId;
use nudge_runtime::Tx;
use parking_lot::Mutex;

use super::Mutant;

/// What goes wrong there in one program.
#[derive(Debug)]
pub(crate) struct WrongApply {
    mutant: Option<Mutant>,
    /// The newest version of each entity that this program has applied since it started.
    seen: Mutex<HashMap<EntityId, u64>>,
}

impl WrongApply {
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        Self { mutant, seen: Mutex::default() }
    }

    /// Whether the kit can read what was applied.
    pub(crate) fn may_read(&self) -> bool {
        self.mutant != Some(Mutant::ContentsNeverCompared)
    }

    /// Returns the indices of those that the service is given.
    pub(crate) async fn before(
        &self,
        tx: &mut Tx,
        entity: &str,
        winners: &[(EntityId, u64)],
    ) -> Result<Vec<usize>, sqlx::Error> {
        match self.mutant {
            Some(Mutant::TornApply) => {
                for sql in ["COMMIT", "BEGIN IMMEDIATE"] {
                    sqlx::query(sql).execute(&mut **tx).await?;
                }
                Ok((0..winners.len()).collect())
            }
            Some(Mutant::GuardInMemory) => self.as_far_as_it_remembers(tx, entity, winners).await,
            _ => Ok((0..winners.len()).collect()),
        }
    }

    /// The guard's table lets everything in; here only that comes through which is newer than what this
    /// program has seen. For the rest, what stood in the table is put back.
    async fn as_far_as_it_remembers(
        &self,
        tx: &mut Tx,
        entity: &str,
        winners: &[(EntityId, u64)],
    ) -> Result<Vec<usize>, sqlx::Error> {
        let mut given = Vec::new();
        for (place, (id, version)) in winners.iter().enumerate() {
            if self.is_newer_than_seen(id, *version) {
                given.push(place);
                continue;
            }
            for sql in [
                "DELETE FROM nudge_applied WHERE entity = $1 AND id = $2",
                "INSERT INTO nudge_applied SELECT * FROM wrong_before WHERE entity = $1 AND id = $2",
            ] {
                let query = sqlx::query(sql).bind(entity.to_owned()).bind(id.to_string());
                query.execute(&mut **tx).await?;
            }
        }
        Ok(given)
    }

    fn is_newer_than_seen(&self, id: &EntityId, version: u64) -> bool {
        let mut seen = self.seen.lock();
        let newest = seen.entry(id.clone()).or_default();
        let newer = version > *newest;
        *newest = version.max(*newest);
        newer
    }
}
