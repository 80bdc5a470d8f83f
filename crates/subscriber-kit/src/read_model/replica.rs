//! The progress of each replica of a service, stored in the read model's own database.
//!
//! A replica cannot know whether the commits of *another* one are still there. The other has acknowledged them, so the
//! broker counts them as handled; but an older copy of the database may have been restored between two checks, with the
//! position where this replica last saw it. So each replica stores its own mark, the sequence up to which everything
//! that was delivered to it is committed, and the position is the lowest mark: a low watermark, as in stream
//! processing. A copy of the database that contains a replica's last mark contains everything that the replica
//! committed before. If a copy does not, that replica notices, or the others do once it is silent, and they read again
//! from the position.
//!
//! A crash of PostgreSQL, whose commits do not wait for the disk, takes away the last ones in the same way. A row that does
//! not outlive one, the *epoch*, tells every replica of it, also of what its mark does not: a dead letter of the last second.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nudge_protocol::EntityName;
use nudge_runtime::{Database, Tx, clock, mutated, row};
use parking_lot::Mutex;
use sqlx::{Any, AnyConnection, any::AnyArguments, query::Query};
use uuid::Uuid;

use super::{
    position::Position,
    recent::{Applied, Recent},
};

/// A replica that is behind and silent for this long counts as gone: others reread what it may not have committed.
/// Longer than the longest time between two checks.
const SILENT_AFTER: Duration = Duration::from_secs(10);

// Unless stated otherwise, $1 to $4: the entity, this replica, the consumer, the creation time of the stream.
const JOIN: &str = "INSERT INTO nudge_intake_replica AS mine \
    (entity, replica, consumer, stream_created, position, seen_at) \
    SELECT entity, $2, consumer, $4, $5, $6 FROM nudge_intake \
    WHERE entity = $1 AND consumer = $3 AND (stream_created <> $4 OR position >= $5) \
    ON CONFLICT (entity, replica) DO UPDATE SET consumer = excluded.consumer, \
    stream_created = excluded.stream_created, position = excluded.position, seen_at = excluded.seen_at";
/// Marks of other replicas in another stream or for another consumer no longer count.
const CLEAR: &str = "DELETE FROM nudge_intake_replica \
    WHERE entity = $1 AND replica <> $2 AND (consumer <> $3 OR stream_created <> $4)";
/// $1 and $2: the entity, a new epoch.
const BEGIN_EPOCH: &str =
    "INSERT INTO nudge_epoch (entity, epoch) VALUES ($1, $2) ON CONFLICT (entity) DO NOTHING";
const LOOK: &str = "SELECT stream_created, position, \
    (SELECT epoch FROM nudge_epoch WHERE entity = $1) AS epoch, \
    (SELECT position FROM nudge_intake_replica WHERE entity = $1 AND replica = $2 \
        AND consumer = $3 AND stream_created = $4) AS own, \
    (SELECT min(position) FROM nudge_intake_replica WHERE entity = $1 \
        AND consumer = $3 AND stream_created = $4) AS least \
    FROM nudge_intake WHERE entity = $1 AND consumer = $3";
/// Every transaction that writes begins with it, so that none waits for another that waits for it.
/// $1 and $2: the entity, the consumer.
const LOCK: &str =
    "UPDATE nudge_intake SET position = position WHERE entity = $1 AND consumer = $2";
const MARK: &str = "UPDATE nudge_intake_replica SET position = $6, seen_at = $7 \
    WHERE entity = $1 AND replica = $2 AND consumer = $3 AND stream_created = $4 AND position >= $5";
/// What one replica has read again is kept, whoever was given it before.
const RAISE: &str = "UPDATE nudge_intake_replica SET position = $5 \
    WHERE entity = $1 AND replica <> $2 AND consumer = $3 AND stream_created = $4 AND position < $5";
/// $1 to $4: the entity, the consumer, the creation time of the stream, the position.
const MOVE: &str = "UPDATE nudge_intake SET stream_created = $3, position = $4 \
    WHERE entity = $1 AND consumer = $2 AND (stream_created <> $3 OR position < $4)";
const BEHIND: &str = "SELECT replica, position, seen_at FROM nudge_intake_replica \
    WHERE entity = $1 AND replica <> $2 AND consumer = $3 AND stream_created = $4 AND position < $5";
const FORGET: &str = "DELETE FROM nudge_intake_replica WHERE entity = $1 AND replica = $2";

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// This replica's mark has moved: a copy of the database that contains it contains everything before it.
    Moved,
    /// There was nothing to store.
    Same,
    /// The read model was emptied, or replaced by an older copy, while in use.
    Lost,
    /// Another replica is gone, perhaps with its last commits: everything beyond the position must be read again.
    Gone,
}

/// What this replica last found in the database and stored there.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    found: Position,
    /// Identifies the time since the database last lost commits in a crash.
    epoch: String,
    /// Whether this replica joined because of such a crash, and learns of it only now.
    pub(crate) is_after_crash: bool,
    /// The creation time of the stream that it belongs to.
    created: String,
    /// The sequence up to which everything that was delivered to this replica is committed.
    own: u64,
    /// Up to here, this replica reads everything again first.
    again: Option<u64>,
    /// The other replicas that are behind: the last values of each, and since when they are unchanged.
    behind: HashMap<String, (Said, Instant)>,
}

/// A replica's mark, and when it was stored.
type Said = (i64, i64);

row! {
    struct Row {
        stream_created: String,
        position: i64,
        epoch: Option<String>,
        own: Option<i64>,
        least: Option<i64>,
    }
}

row! {
    struct Behind {
        replica: String,
        position: i64,
        seen_at: i64,
    }
}

/// This replica, for one entity.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    db: Database,
    entity: EntityName,
    id: String,
    /// Whether, at its last check, everything that was delivered to it or had to be reread was committed.
    owes_nothing: Arc<AtomicBool>,
    /// The epoch in which it joined last, unless it has found since that something is lost.
    epoch: Arc<Mutex<Option<String>>>,
}

impl Mark {
    /// The identity of the read model.
    pub(crate) fn consumer(&self) -> &str {
        &self.found.consumer
    }

    /// Whether the row can have reached this state without a crash or a restore.
    fn leads_to(&self, now: &Row) -> bool {
        if now.epoch.as_ref() != Some(&self.epoch) {
            return false;
        }
        match now.stream_created == self.found.stream_created {
            true => now.position.unsigned_abs() >= self.found.position,
            // Another replica was the first to store that the stream was recreated.
            false => now.stream_created == self.created,
        }
    }

    /// The sequence to which the position must move, if it must.
    fn moves_to(&self, now: &Row) -> Option<i64> {
        now.least.filter(|least| now.stream_created != self.created || now.position < *least)
    }

    /// Those replicas in `behind` that have been silent for [`SILENT_AFTER`].
    fn silent(&mut self, behind: Vec<Behind>, now: Instant) -> Vec<String> {
        let said = |one: &Behind| (one.position, one.seen_at);
        let known = std::mem::take(&mut self.behind);
        self.behind = behind
            .into_iter()
            .map(|one| {
                let since = known.get(&one.replica).filter(|(before, _)| *before == said(&one));
                let since = since.map_or(now, |(_, since)| *since);
                (one.replica.clone(), (said(&one), since))
            })
            .collect();
        let silent =
            self.behind.iter().filter(|(_, (_, since))| now.duration_since(*since) >= SILENT_AFTER);
        silent.map(|(replica, _)| replica.clone()).collect()
    }
}

impl Replica {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        let (id, (owes_nothing, epoch)) = (Uuid::new_v4().simple().to_string(), Default::default());
        Self { db, entity, id, owes_nothing, epoch }
    }

    /// Joins at `handled`, before anything is delivered to this replica. The position does not move beyond that until
    /// this replica stores a higher mark. Up to `again`, it rereads everything first. `None` if the row is no longer
    /// the one that was `found`.
    pub(crate) async fn join(
        &self,
        found: Position,
        created: &str,
        handled: u64,
        again: u64,
    ) -> Result<Option<Mark>, sqlx::Error> {
        self.owes_nothing.store(false, SeqCst);
        let (epoch, is_after_crash) = (String::new(), false);
        let (own, again, behind) = (handled, Some(again), HashMap::new());
        let created = created.to_owned();
        let mark = Mark { found, epoch, is_after_crash, created, own, again, behind };
        let work = async {
            let Some(mut tx) = self.locked(&mark).await? else { return Ok(None) };
            // If a crash took this row away with what this replica then applies, another could move the position past that.
            self.db.wait_for_disk(&mut tx).await?;
            let join = self.about(JOIN, &mark).bind(handled as i64).bind(now());
            let joined = join.execute(&mut *tx).await?.rows_affected() > 0;
            self.about(CLEAR, &mark).execute(&mut *tx).await?;
            let begin = sqlx::query(BEGIN_EPOCH).bind(self.entity.as_str());
            begin.bind(Uuid::new_v4().simple().to_string()).execute(&mut *tx).await?;
            let row = self.row(&mark, &mut tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(row.and_then(|row| row.epoch).filter(|_| joined))
        };
        let Some(epoch) = self.db.run(work).await? else { return Ok(None) };
        let before = self.epoch.lock().replace(epoch.clone());
        let is_after_crash = before.is_some_and(|before| before != epoch);
        Ok(Some(Mark { epoch, is_after_crash, ..mark }))
    }

    /// Checks that the database still holds what it did, and stores that everything delivered to this replica up to
    /// `floor` is committed or, without a floor, only that the replica is alive.
    pub(crate) async fn look(
        &self,
        mark: &mut Mark,
        floor: Option<u64>,
        recent: &Recent,
        applied: &Applied,
        at: Instant,
    ) -> Result<Looked, sqlx::Error> {
        let own = floor.unwrap_or(mark.own);
        let recorded = self.db.run(self.compare(mark, floor, recent, applied)).await?;
        let Some(position) = recorded else {
            *self.epoch.lock() = None;
            return Ok(Looked::Lost);
        };
        (mark.found.stream_created, mark.found.position) = (mark.created.clone(), position);
        let moved = std::mem::replace(&mut mark.own, own) != own;
        if floor.is_some() {
            mark.again = None;
        }
        self.owes_nothing.store(floor.is_some(), SeqCst);
        if position < own && self.takes_over(mark, at).await? {
            return Ok(Looked::Gone);
        }
        Ok(if moved { Looked::Moved } else { Looked::Same })
    }

    /// Stores what there is to store, and returns the position. `None` if something was lost.
    async fn compare(
        &self,
        mark: &Mark,
        floor: Option<u64>,
        recent: &Recent,
        applied: &Applied,
    ) -> Result<Option<u64>, sqlx::Error> {
        if floor == Some(mark.own) && mark.again.is_none() {
            let mut reader = self.db.reader().acquire().await?;
            let row = self.row(mark, &mut reader).await?;
            let as_left = |row: &Row| mark.leads_to(row) && row.own >= Some(mark.own as i64);
            let Some(row) = row.filter(as_left) else { return Ok(None) };
            if mark.moves_to(&row).is_none() {
                let kept = are_kept(recent, applied, &mut reader).await?;
                return Ok(kept.then_some(row.position.unsigned_abs()));
            }
        }
        self.record(mark, floor, recent, applied).await
    }

    /// Stores the mark, and the position if that moves.
    async fn record(
        &self,
        mark: &Mark,
        floor: Option<u64>,
        recent: &Recent,
        applied: &Applied,
    ) -> Result<Option<u64>, sqlx::Error> {
        // This locks the rows first, so that no restore can come in between.
        let Some(mut tx) = self.locked(mark).await? else { return Ok(None) };
        let own = floor.unwrap_or(mark.own) as i64;
        let marking = self.about(MARK, mark).bind(mark.own as i64).bind(own).bind(now());
        if marking.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(None);
        }
        if let (Some(again), Some(floor)) = (mark.again, floor) {
            let raising = self.about(RAISE, mark).bind(again.min(floor) as i64);
            raising.execute(&mut *tx).await?;
        }
        let row = self.row(mark, &mut tx).await?.filter(|row| mark.leads_to(row));
        let Some(row) = row else { return Ok(None) };
        if !are_kept(recent, applied, &mut tx).await? {
            return Ok(None);
        }
        let least = mutated!(OneReplicaSpeaksForAll: row.least => Some(own));
        let least = mark.moves_to(&Row { least, ..row });
        if let Some(least) = least {
            let moving = sqlx::query(MOVE).bind(self.entity.as_str()).bind(&mark.found.consumer);
            moving.bind(&mark.created).bind(least).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Some(least.unwrap_or(row.position).unsigned_abs()))
    }

    /// Takes over from replicas that are behind and silent, if there are any. This replica then holds the position back
    /// in their place, until it has joined again and reread the messages.
    async fn takes_over(&self, mark: &mut Mark, at: Instant) -> Result<bool, sqlx::Error> {
        let (own, position) = (mark.own as i64, mark.found.position as i64);
        let behind = self.db.run(async {
            let sql = sqlx::query_as(BEHIND).bind(self.entity.as_str()).bind(&self.id);
            let sql = sql.bind(&mark.found.consumer).bind(&mark.created).bind(own);
            sql.fetch_all(self.db.reader()).await
        });
        let behind: Vec<Behind> = behind.await?;
        let silent = mark.silent(behind, at);
        if silent.is_empty() {
            return Ok(false);
        }
        self.owes_nothing.store(false, SeqCst);
        let work = async {
            let Some(mut tx) = self.locked(mark).await? else { return Ok(()) };
            let marking = self.about(MARK, mark).bind(own).bind(position).bind(now());
            marking.execute(&mut *tx).await?;
            for replica in &silent {
                let forget = sqlx::query(FORGET).bind(self.entity.as_str()).bind(replica);
                forget.execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        self.db.run(work).await?;
        Ok(true)
    }

    /// Leaves: this replica commits nothing more. If it has unfinished messages, its row stays, and others take over.
    pub(crate) async fn leave(&self) -> Result<(), sqlx::Error> {
        if self.owes_nothing.load(SeqCst) {
            let forget = sqlx::query(FORGET).bind(self.entity.to_string()).bind(self.id.clone());
            self.db.write(forget).await?;
        }
        Ok(())
    }

    /// A transaction beside which no other replica writes here; none if the row is gone.
    async fn locked(&self, mark: &Mark) -> Result<Option<Tx>, sqlx::Error> {
        let mut tx = self.db.begin_read_committed().await?;
        let locking = sqlx::query(LOCK).bind(self.entity.as_str()).bind(&mark.found.consumer);
        Ok((locking.execute(&mut *tx).await?.rows_affected() > 0).then_some(tx))
    }

    async fn row(&self, mark: &Mark, at: &mut AnyConnection) -> Result<Option<Row>, sqlx::Error> {
        let looking = sqlx::query_as(LOOK).bind(self.entity.as_str()).bind(&self.id);
        let looking = looking.bind(&mark.found.consumer).bind(&mark.created);
        looking.fetch_optional(at).await
    }

    fn about<'q>(&'q self, sql: &'static str, mark: &'q Mark) -> Query<'q, Any, AnyArguments> {
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(&*self.id);
        query.bind(&*mark.found.consumer).bind(&*mark.created)
    }
}

async fn are_kept(
    recent: &Recent,
    applied: &Applied,
    at: &mut AnyConnection,
) -> Result<bool, sqlx::Error> {
    Ok(mutated!(ReadModelPutBackUnnoticed: recent.are_kept(applied, at).await? => true))
}

fn now() -> i64 {
    clock::now().unix_micros()
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
