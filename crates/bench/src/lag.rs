//! The time from the owner's commit until a reader has read the row in the read model.
//!
//! Changes are committed at times that were set before, whether or not the earlier ones are readable by then: a subscriber that
//! stands still is not spared. Each is of one of a few things, so that they are updates.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use nudge_runtime::{BoxError, Database, set_sql::strings};
use parking_lot::Mutex;
use sqlx::AssertSqlSafe;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// The thing that is changed before anything is measured.
const FIRST: &str = "probe";
/// Number of things that are changed in turn.
const THINGS: usize = 256;
/// Longest time between two looks at the read model, unless a commit there is told of.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// Longest wait for all changes, after the last commit.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to read a read model.
pub(crate) struct Reader {
    /// Its database.
    pub(crate) db: Database,
    /// Its table, and the expression for a thing's edition.
    pub(crate) table: String,
    pub(crate) edition: &'static str,
    /// Notified after each commit, if somebody tells of them.
    pub(crate) commits: Option<Arc<Notify>>,
}

/// When changes are committed.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) changes: usize,
    pub(crate) interval: Duration,
}

/// A commit that a reader has not seen yet: of which thing, its edition, and when.
type Pending = Mutex<Vec<(String, i64, Instant)>>;

/// Lets `write` commit changes, and returns how long each took until it was read, in microseconds.
pub(crate) async fn lags(
    reader: &Reader,
    schedule: Schedule,
    write: impl AsyncFn(String, i64) -> Result<(), BoxError>,
) -> Result<Histogram<u64>, BoxError> {
    // Whoever has only just begun to follow is not measured while it starts.
    let first = nudge_runtime::clock::now().unix_micros();
    write(FIRST.to_owned(), first).await?;
    let is_followed = || async { (reader.edition(FIRST).await.ok()? >= Some(first)).then_some(()) };
    nudge_testbed::within(PATIENCE, is_followed).await.ok_or("the first change is not readable")?;
    let pending = Pending::default();
    let written = Mutex::new(false);
    let writing = async {
        let mut ticks = interval(schedule.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // No round begins where another one ended.
        for n in 0..schedule.changes {
            ticks.tick().await;
            let (id, edition) = (format!("probe-{}", n % THINGS), first + n as i64);
            write(id.clone(), edition).await?;
            pending.lock().push((id, edition, Instant::now()));
        }
        *written.lock() = true;
        Ok::<_, BoxError>(())
    };
    let ((), lags) = tokio::try_join!(writing, reader.watch(&pending, &written))?;
    Ok(lags)
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread for blocking work: the runtime's own timers count whole milliseconds"
)]
fn pause() {
    std::thread::sleep(LOOK_INTERVAL);
}

impl Reader {
    /// The edition of a thing, if it is there.
    pub(crate) async fn edition(&self, id: &str) -> Result<Option<i64>, BoxError> {
        let sql = format!("SELECT {} FROM {} WHERE id = $1", self.edition, self.table);
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(id.to_owned());
        let row: Option<(i64,)> = query.fetch_optional(self.db.reader()).await?;
        Ok(row.map(|(edition,)| edition))
    }

    async fn watch(
        &self,
        pending: &Pending,
        written: &Mutex<bool>,
    ) -> Result<Histogram<u64>, BoxError> {
        let mut lags = Histogram::new(3)?;
        let set = strings(self.db.kind(), "$1");
        let (table, edition) = (&self.table, self.edition);
        let sql = format!("SELECT id, {edition} FROM {table} WHERE id IN {set}");
        let mut all_written_at = None;
        loop {
            match &self.commits {
                // Whoever commits next may do so before this waits.
                Some(commits) => drop(timeout(LOOK_INTERVAL, commits.notified()).await),
                None => spawn_blocking(pause).await?,
            }
            let ids: Vec<_> = pending.lock().iter().map(|(id, ..)| id.clone()).collect();
            if ids.is_empty() {
                if *written.lock() && pending.lock().is_empty() {
                    return Ok(lags);
                }
                continue;
            }
            let query = sqlx::query_as(AssertSqlSafe(sql.as_str()));
            let rows: Vec<(String, i64)> =
                query.bind(serde_json::json!(ids).to_string()).fetch_all(self.db.reader()).await?;
            let now = Instant::now();
            let rows: std::collections::HashMap<_, _> = rows.into_iter().collect();
            let mut pending = pending.lock();
            for (.., committed) in pending
                .extract_if(.., |(id, edition, _)| rows.get(id).is_some_and(|at| at >= edition))
            {
                let lag = now.saturating_duration_since(committed);
                lags.record(u64::try_from(lag.as_micros())?)?;
            }
            if *written.lock() && now - *all_written_at.get_or_insert(now) > PATIENCE {
                return Err(format!("{} changes are not readable", pending.len()).into());
            }
        }
    }
}
