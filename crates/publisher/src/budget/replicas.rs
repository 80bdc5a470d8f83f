//! How many replicas of an owner run: each gets its part of the budget.
//!
//! Each raises a number in a row of its own, in the owner's database. A replica whose number does not change for a while is
//! gone. No two clocks are compared.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nudge_protocol::EntityName;
use nudge_runtime::Database;
use tokio_util::sync::CancellationToken;

use super::Budget;

/// Pause between two signs of life.
const BEAT: Duration = Duration::from_secs(2);
/// A replica without a sign of life for so long has no part of the budget.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// How long its row is kept.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The signs of life that were seen of each replica: its number, and when that changed.
#[derive(Debug, Default)]
struct Seen(HashMap<String, (i64, Instant)>);

impl Seen {
    /// Notes what the table says. Returns how many replicas are alive, and which are to be forgotten. One that is seen for
    /// the first time counts: too small a part is better than too much.
    fn note(&mut self, rows: Vec<(String, i64)>, now: Instant) -> (usize, Vec<String>) {
        let before = std::mem::take(&mut self.0);
        let since = |(replica, beat): (String, i64)| {
            let changed = match before.get(&replica) {
                Some((known, since)) if *known == beat => *since,
                _ => now,
            };
            (replica, (beat, changed))
        };
        self.0 = rows.into_iter().map(since).collect();
        let silent = |since: &Instant| now.saturating_duration_since(*since);
        let live = self.0.values().filter(|(_, since)| silent(since) < SILENT_AFTER).count();
        let gone = self.0.iter().filter(|(_, (_, since))| silent(since) > KEPT_FOR);
        (live.max(1), gone.map(|(replica, _)| replica.clone()).collect())
    }
}

/// One replica among those of an owner of `entity`.
pub(super) struct Replica {
    db: Database,
    entity: EntityName,
    name: String,
    seen: Seen,
}

impl Replica {
    pub(super) fn new(db: Database, entity: EntityName, name: String) -> Self {
        Self { db, entity, name, seen: Seen::default() }
    }

    /// Keeps `budget` told how many replicas there are, until `stop`. While the database fails, the last number stands.
    pub(super) async fn run(mut self, budget: Budget, stop: CancellationToken) {
        loop {
            match self.beat(Instant::now()).await {
                Ok(live) => budget.shared_by(live),
                Err(error) => {
                    tracing::debug!(entity = %self.entity, %error, "cannot count the owner's replicas");
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        // If the database is away, the others notice the silence.
        let _ = tokio::time::timeout(BEAT, self.forget(&self.name)).await;
    }

    async fn beat(&mut self, now: Instant) -> Result<usize, sqlx::Error> {
        let sql = "INSERT INTO nudge_owner_replica (entity, replica, beat) VALUES ($1, $2, 1)
            ON CONFLICT (entity, replica) DO UPDATE SET beat = nudge_owner_replica.beat + 1";
        let entity = self.entity.as_str();
        self.db.write(sqlx::query(sql).bind(entity).bind(&self.name)).await?;
        let sql = "SELECT replica, beat FROM nudge_owner_replica WHERE entity = $1";
        let rows = || sqlx::query_as(sql).bind(entity).fetch_all(self.db.reader());
        let (live, gone) = self.seen.note(self.db.run_afresh(rows).await?, now);
        for replica in gone {
            self.forget(&replica).await?;
        }
        Ok(live)
    }

    async fn forget(&self, replica: &str) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM nudge_owner_replica WHERE entity = $1 AND replica = $2";
        self.db.write(sqlx::query(sql).bind(self.entity.as_str()).bind(replica)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_while_it_gives_signs_of_life() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let rows = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        let live = |seen: &mut Seen, a, b, after| seen.note(rows(a, b), start + after);
        assert_eq!(live(&mut seen, 1, 7, Duration::ZERO), (2, vec![]), "who is new counts");
        assert_eq!(live(&mut seen, 2, 7, SILENT_AFTER / 2).0, 2);
        assert_eq!(live(&mut seen, 3, 7, SILENT_AFTER).0, 1);
        assert_eq!(live(&mut seen, 4, 8, SILENT_AFTER + BEAT).0, 2, "it was only frozen");
        let long = SILENT_AFTER + BEAT + KEPT_FOR + BEAT;
        assert_eq!(live(&mut seen, 5, 8, long), (1, vec!["b".to_owned()]));
        assert_eq!(seen.note(Vec::new(), start + long).0, 1, "this one runs");
    }
}
