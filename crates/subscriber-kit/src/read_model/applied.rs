//! Waiting for a version, for readers that must see a certain write.
//!
//! The table decides, since another replica may apply the version. A waiter is registered before it reads the table, so
//! it does not miss a commit in between. To see commits of other replicas, it reads the table again every
//! [`POLL_INTERVAL`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use nudge_protocol::{EntityId, EntityName, Timestamp, Version, admin::AppliedVersion};
use nudge_runtime::{Database, set_sql::strings};
use parking_lot::{Mutex, MutexGuard};
use sqlx::AssertSqlSafe;
use tokio::{sync::Notify, time::Instant};

use super::counted::Counted;

/// How often the table is read for versions that other replicas applied.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The applied versions of one kind of entity, and those who wait for them.
#[derive(Clone, Debug)]
pub(crate) struct Waiters {
    db: Database,
    entity: EntityName,
    counted: Counted<u64>,
    waiting: Arc<Mutex<HashMap<EntityId, Arc<Notify>>>>,
}

impl Waiters {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        Self { db, entity, counted: Counted::default(), waiting: Arc::default() }
    }

    /// The version applied for `id`.
    pub(crate) async fn applied(
        &self,
        id: &EntityId,
    ) -> Result<Option<AppliedVersion>, sqlx::Error> {
        let sql =
            "SELECT version, deleted, applied_at FROM nudge_applied WHERE entity = $1 AND id = $2";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(id.as_str());
        let row: Option<(i64, i64, i64)> =
            self.db.run(query.fetch_optional(self.db.reader())).await?;
        Ok(row.map(read))
    }

    /// The versions applied for those of `ids` that are there.
    pub(crate) async fn of(
        &self,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, AppliedVersion>, sqlx::Error> {
        let sql = format!(
            "SELECT id, version, deleted, applied_at FROM nudge_applied WHERE entity = $1 AND id IN {}",
            strings(self.db.kind(), "$2")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(serde_json::json!(ids).to_string());
        let rows: Vec<(String, i64, i64, i64)> =
            self.db.run(query.fetch_all(self.db.reader())).await?;
        let row = |(id, version, deleted, applied_at): (String, i64, i64, i64)| {
            Some((EntityId::new(&id).ok()?, read((version, deleted, applied_at))))
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// Some applied IDs, those of existing entities first.
    pub(crate) async fn some(&self, limit: usize) -> Result<Vec<EntityId>, sqlx::Error> {
        let sql = "SELECT id, deleted FROM nudge_applied WHERE entity = $1 ORDER BY id LIMIT $2";
        let query = sqlx::query_as(sql).bind(self.entity.as_str()).bind(limit as i64);
        let mut rows: Vec<(String, i64)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        rows.sort_by_key(|(_, deleted)| *deleted);
        Ok(rows.into_iter().filter_map(|(id, _)| EntityId::new(&id).ok()).collect())
    }

    /// Number of applied entities, including tombstones. It reads all of them, so a large number may be some time old.
    pub(crate) async fn count(&self) -> Result<u64, sqlx::Error> {
        let count = async {
            let sql = "SELECT count(*) FROM nudge_applied WHERE entity = $1";
            let query = sqlx::query_as(sql).bind(self.entity.as_str());
            let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
            let count = u64::try_from(count).unwrap_or(0);
            Ok((count, count))
        };
        self.counted.get(count).await
    }

    /// Wakes those who wait for these IDs. Call it after the commit.
    pub(crate) fn wake<'a>(&self, ids: impl Iterator<Item = &'a EntityId>) {
        let waiting = self.lock();
        if waiting.is_empty() {
            return;
        }
        for notify in ids.filter_map(|id| waiting.get(id)) {
            notify.notify_waiters();
        }
    }

    /// Waits until `version` of `id` or a later one is applied. After the timeout, `Err` holds the version that is
    /// applied, if any.
    pub(crate) async fn wait(
        &self,
        id: &EntityId,
        version: Version,
        timeout: Duration,
    ) -> Result<Result<AppliedVersion, Option<AppliedVersion>>, sqlx::Error> {
        let deadline = Instant::now() + timeout;
        let armed = Armed::new(self, id);
        loop {
            let mut notified = std::pin::pin!(armed.notify.notified());
            notified.as_mut().enable();
            let applied = self.applied(id).await?;
            match applied {
                Some(applied) if applied.version >= version => return Ok(Ok(applied)),
                _ if Instant::now() >= deadline => return Ok(Err(applied)),
                _ => {}
            }
            let look_again = (Instant::now() + POLL_INTERVAL).min(deadline);
            let _ = tokio::time::timeout_at(look_again, notified).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EntityId, Arc<Notify>>> {
        self.waiting.lock()
    }
}

fn read((version, deleted, applied_at): (i64, i64, i64)) -> AppliedVersion {
    AppliedVersion {
        version: Version::try_from(version).unwrap_or(Version::NONE),
        deleted: deleted != 0,
        applied_at: Timestamp::from_unix_micros(applied_at),
    }
}

/// An entry in the map of waiters, removed along with the last waiter for its key.
struct Armed<'a> {
    waiters: &'a Waiters,
    id: EntityId,
    notify: Arc<Notify>,
}

impl<'a> Armed<'a> {
    fn new(waiters: &'a Waiters, id: &EntityId) -> Self {
        let notify = waiters.lock().entry(id.clone()).or_default().clone();
        Self { waiters, id: id.clone(), notify }
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        // Two references: the map's and ours. Counted under the lock, so nobody can join in between.
        if Arc::strong_count(&self.notify) <= 2 {
            waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;

    use super::*;

    async fn waiters() -> Waiters {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
        Waiters::new(db, EntityName::new("store").unwrap())
    }

    async fn put(waiters: &Waiters, id: &EntityId, version: i64) {
        let mut tx = waiters.db.begin().await.unwrap();
        let sql = "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) \
                   VALUES ('store', $1, $2, 0, 0) \
                   ON CONFLICT (entity, id) DO UPDATE SET version = excluded.version";
        sqlx::query(sql).bind(id.as_str()).bind(version).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_its_version_and_leaves_nothing_behind() {
        let waiters = waiters().await;
        let id = EntityId::new("42").unwrap();
        put(&waiters, &id, 1).await;
        let (w, i) = (waiters.clone(), id.clone());
        let waiting = tokio::spawn(async move {
            w.wait(&i, Version::new(2).unwrap(), Duration::from_secs(60)).await
        });
        while waiters.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        put(&waiters, &id, 2).await;
        waiters.wake([&id].into_iter());
        let applied = waiting.await.unwrap().unwrap().unwrap();
        assert_eq!(applied.version.get(), 2);
        assert!(waiters.lock().is_empty());
    }

    #[tokio::test]
    async fn what_another_replica_applied_is_seen_without_a_wake_up() {
        let waiters = waiters().await;
        let id = EntityId::new("42").unwrap();
        let (w, i) = (waiters.clone(), id.clone());
        let waiting = tokio::spawn(async move {
            w.wait(&i, Version::new(1).unwrap(), Duration::from_secs(60)).await
        });
        while waiters.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        put(&waiters, &id, 3).await;
        assert!(waiting.await.unwrap().unwrap().is_ok());
    }

    #[tokio::test]
    async fn when_the_time_is_up_the_current_version_is_told() {
        let waiters = waiters().await;
        let id = EntityId::new("42").unwrap();
        put(&waiters, &id, 1).await;
        let waited = waiters.wait(&id, Version::new(2).unwrap(), Duration::ZERO).await.unwrap();
        assert_eq!(waited.unwrap_err().unwrap().version.get(), 1);
        assert!(waiters.lock().is_empty());
    }
}
