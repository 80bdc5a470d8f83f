//! How far comparing has got, stored in the read model's own database: a restart goes on where the last page ended, and
//! of several replicas only one compares.

use std::time::Duration;

use nudge_protocol::{
    EntityName,
    admin::{ContentsStatus, ResyncStatus, Sweep},
};
use nudge_runtime::{Database, clock, row};
use serde::de::DeserializeOwned;
use sqlx::{Any, any::AnyArguments};
use uuid::Uuid;

/// A replica that has given no sign for this long no longer compares. Longer than the longest pause between two signs.
const SILENT_AFTER: Duration = Duration::from_secs(60);

const CLAIM: &str = "INSERT INTO nudge_resync AS held (entity, holder, seen_at) VALUES ($1, $2, $3) \
    ON CONFLICT (entity) DO UPDATE SET holder = excluded.holder, seen_at = excluded.seen_at \
    WHERE held.holder = excluded.holder OR held.seen_at < $4";
const SAVE: &str = "UPDATE nudge_resync SET sweep = $3, last_sweep = $4, removals = $5, waits_for = $6, seen_at = $7, audit = $8 \
    WHERE entity = $1 AND holder = $2";
const ENDED: &str = "UPDATE nudge_resync SET wanted = CASE WHEN wanted = $2 THEN 0 ELSE wanted END, \
    allow_removals = CASE WHEN $3 = 1 THEN 0 ELSE allow_removals END WHERE entity = $1";

type Query<'q> = sqlx::query::Query<'q, Any, AnyArguments>;

row! {
    struct Row {
        sweep: Option<String>,
        last_sweep: Option<String>,
        removals: i64,
        waits_for: Option<String>,
        wanted: i64,
        allow_removals: i64,
        contents: Option<String>,
        audit: Option<String>,
    }
}

/// An operator wants a comparison of everything now.
const WANTED: i64 = 1;
/// It has begun.
const BEGUN: i64 = 2;
/// An operator wants everything compared and applied again.
const WANTED_IN_FULL: i64 = 3;

/// The row of one followed entity.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    db: Database,
    entity: EntityName,
    holder: String,
}

/// What the row says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) status: ResyncStatus,
    /// Whether an operator wants a comparison now.
    pub(crate) wanted: Option<Wanted>,
    /// Whether an operator allows removals, however many.
    pub(crate) allow_removals: bool,
}

/// A comparison that an operator wants now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// From the beginning. If `full`, everything is also applied again.
    Anew { full: bool },
    /// It has begun.
    Begun,
}

impl Ledger {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        Self { db, entity, holder: Uuid::new_v4().simple().to_string() }
    }

    /// Says that this replica compares. Returns whether it does, and no other.
    pub(crate) async fn claim(&self) -> Result<bool, sqlx::Error> {
        let now = clock::now().unix_micros();
        let silent = i64::try_from(SILENT_AFTER.as_micros()).unwrap_or(i64::MAX);
        let query = sqlx::query(CLAIM).bind(self.entity.as_str()).bind(self.holder.clone());
        Ok(self.db.write(query.bind(now).bind(now.saturating_sub(silent))).await? > 0)
    }

    /// Lets another replica compare at once.
    pub(crate) async fn leave(&self) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_resync SET seen_at = 0 WHERE entity = $1 AND holder = $2";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(self.holder.clone());
        self.db.write(query).await.map(drop)
    }

    /// What is stored.
    pub(crate) async fn read(&self) -> Result<Entries, sqlx::Error> {
        let sql = "SELECT sweep, last_sweep, removals, waits_for, wanted, allow_removals, contents, audit \
                   FROM nudge_resync WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let row: Option<Row> = self.db.run(query.fetch_optional(self.db.reader())).await?;
        let Some(row) = row else { return Ok(Entries::default()) };
        // Whatever else another release wrote begins anew.
        let (current, last) = (from_json(row.sweep), from_json(row.last_sweep));
        let status = ResyncStatus {
            current,
            last,
            waits_for: row.waits_for,
            removals_waiting: row.removals.unsigned_abs(),
            contents: from_json(row.contents).unwrap_or_default(),
            audit: from_json(row.audit).unwrap_or_default(),
        };
        let wanted = match row.wanted {
            WANTED => Some(Wanted::Anew { full: false }),
            WANTED_IN_FULL => Some(Wanted::Anew { full: true }),
            BEGUN => Some(Wanted::Begun),
            _ => None,
        };
        Ok(Entries { status, wanted, allow_removals: row.allow_removals != 0 })
    }

    /// Stores how far this replica has got. Does nothing if another one compares by now.
    pub(crate) async fn save(&self, status: &ResyncStatus) -> Result<(), sqlx::Error> {
        self.db.write(self.saving(status)).await.map(drop)
    }

    fn saving(&self, status: &ResyncStatus) -> Query<'_> {
        let text = |sweep: &Option<Sweep>| sweep.as_ref().map(|s| serde_json::json!(s).to_string());
        let query = sqlx::query(SAVE).bind(self.entity.as_str()).bind(self.holder.clone());
        let query = query.bind(text(&status.current)).bind(text(&status.last));
        let query = query.bind(status.removals_waiting as i64).bind(status.waits_for.clone());
        let query = query.bind(clock::now().unix_micros());
        query.bind(serde_json::json!(status.audit).to_string())
    }

    /// Stores that a comparison of everything has ended. If nothing was left to remove, an operator's word is used up.
    /// Returns whether it did that: not if another replica compares by now.
    pub(crate) async fn end(
        &self,
        status: &ResyncStatus,
        clean: bool,
    ) -> Result<bool, sqlx::Error> {
        let work = async {
            let mut tx = self.db.begin().await?;
            if self.saving(status).execute(&mut *tx).await?.rows_affected() == 0 {
                return Ok(false);
            }
            let query = sqlx::query(ENDED).bind(self.entity.as_str()).bind(BEGUN);
            query.bind(i64::from(clean)).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        self.db.run(work).await
    }

    /// Stores what comparing waits for, until the end of its page. Does nothing if another replica compares by now.
    pub(crate) async fn save_waits_for(&self, why: &str) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_resync SET waits_for = $3 WHERE entity = $1 AND holder = $2";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(self.holder.clone());
        self.db.write(query.bind(why.to_owned())).await.map(drop)
    }

    /// Stores how far comparing contents has got. Does nothing if another replica compares by now.
    pub(crate) async fn save_contents(&self, contents: &ContentsStatus) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_resync SET contents = $3 WHERE entity = $1 AND holder = $2";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(self.holder.clone());
        self.db.write(query.bind(serde_json::json!(contents).to_string())).await.map(drop)
    }

    /// An operator wants a comparison now, may want everything applied again, and may allow removals, however many.
    pub(crate) async fn ask(&self, full: bool, allow_removals: bool) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO nudge_resync AS held (entity, holder, seen_at, wanted, allow_removals) \
                   VALUES ($1, '', 0, $2, $3) ON CONFLICT (entity) DO UPDATE SET \
                   wanted = CASE WHEN held.wanted = $4 THEN held.wanted ELSE excluded.wanted END, \
                   allow_removals = CASE WHEN excluded.allow_removals = 1 THEN 1 ELSE held.allow_removals END";
        let query = sqlx::query(sql).bind(self.entity.as_str());
        let query = query.bind(if full { WANTED_IN_FULL } else { WANTED });
        let query = query.bind(i64::from(allow_removals)).bind(WANTED_IN_FULL);
        // An operator is told that it will be done.
        self.db.write_to_disk(query).await.map(drop)
    }

    /// The comparison that an operator wanted has begun. Does nothing if another replica compares by now.
    pub(crate) async fn begun(&self) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_resync SET wanted = $2 \
                   WHERE entity = $1 AND holder = $5 AND wanted IN ($3, $4)";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(BEGUN);
        let query = query.bind(WANTED).bind(WANTED_IN_FULL).bind(self.holder.clone());
        self.db.write(query).await.map(drop)
    }
}

/// What this release wrote, or another one in a form that this one understands.
fn from_json<T: DeserializeOwned>(text: Option<String>) -> Option<T> {
    serde_json::from_str(&text?).ok()
}
