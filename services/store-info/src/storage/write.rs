//! One write, in one transaction.

use std::time::Duration;

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    Tx,
    database::{LOCK_TIMEOUT, WorkError, is_conflict},
};
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use super::{Stores, sql};
use crate::domain::{Decision, Effect, Found, Refusal, Store};

/// Attempts of a write that conflicts with others: someone else creates the store at the same moment,
/// or the database breaks a deadlock with somebody who edits it by hand.
const MAX_ATTEMPTS: u32 = 10;
/// Longest pause before the second attempt; it grows with each.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);

/// The result of a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// What it did.
    pub effect: Effect,
    /// The current version; after a delete, the tombstone's.
    pub version: Version,
    /// The current state.
    pub store: Option<Box<Store>>,
}

/// Why nothing was written.
#[derive(Debug)]
pub enum WriteError {
    /// The domain refused.
    Refused(Refusal),
    /// The database failed; the transaction is rolled back.
    Database(sqlx::Error),
    /// The change would not be captured, so nobody would be notified; nothing is written.
    NotCaptured,
}

impl WorkError for WriteError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Refused(_) | Self::NotCaptured => None,
        }
    }
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Stores {
    /// Writes what `decide` makes of the existing store. `decide` may be called again if someone else
    /// creates the store in between. If somebody keeps the store locked, waits for
    /// [`LOCK_TIMEOUT`] once: such a lock may be kept for hours, and waiting blocks others.
    pub async fn write(
        &self,
        id: &EntityId,
        decide: impl Fn(&Found) -> Result<Decision, Refusal> + Send + Sync,
    ) -> Result<Written, WriteError> {
        if self.publisher.is_capture_lost() {
            return Err(WriteError::NotCaptured);
        }
        let began = Instant::now();
        for attempt in 1..=MAX_ATTEMPTS {
            match self.db.run_afresh(|| self.attempt(id, &decide)).await {
                Ok(Some(written)) => {
                    self.metrics.wrote(written.effect, 1);
                    return Ok(written);
                }
                Ok(None) => {}
                Err(WriteError::Database(error))
                    if is_conflict(&error) && began.elapsed() < LOCK_TIMEOUT =>
                {
                    tracing::info!(%id, %error, attempt, "retrying a write");
                    tokio::time::sleep(CONFLICT_PAUSE * attempt).await;
                }
                Err(error) => return Err(error),
            }
        }
        let problem =
            format!("store {id} was written by others at each of {MAX_ATTEMPTS} attempts");
        Err(WriteError::Database(sqlx::Error::Io(std::io::Error::other(problem))))
    }

    /// One transaction. `None` if someone else created the store meanwhile.
    async fn attempt(
        &self,
        id: &EntityId,
        decide: &(impl Fn(&Found) -> Result<Decision, Refusal> + Send + Sync),
    ) -> Result<Option<Written>, WriteError> {
        let mut tx = self.publisher.begin_read_committed().await?;
        let locked = self.lock(&mut tx, std::slice::from_ref(id)).await?;
        let found = self.find(&mut tx, id).await?;
        if !locked && found.existing().is_some() {
            tx.rollback().await?;
            return Ok(None);
        }
        let decision = match decide(&found) {
            Ok(decision) => decision,
            Err(refusal) => {
                // Dropping it would work too, but only once the pool gets round to it.
                tx.rollback().await?;
                return Err(WriteError::Refused(refusal));
            }
        };
        let written = self.carry_out(&mut tx, id, found, decision).await?;
        match &written {
            Some(Written { effect: Effect::Unchanged, .. }) | None => tx.rollback().await?,
            Some(_) => self.publisher.commit(tx).await?,
        }
        Ok(written)
    }

    /// `None` if the store was to be created and someone else just did.
    async fn carry_out(
        &self,
        tx: &mut Tx,
        id: &EntityId,
        found: Found,
        decision: Decision,
    ) -> Result<Option<Written>, WriteError> {
        let before = found.version();
        let (effect, version, store) = match (decision, found) {
            (Decision::Save(store), Found::Live { .. } | Found::Unreadable { .. }) => {
                self.save(tx, std::slice::from_ref(&*store)).await?;
                let version = self.version(tx, id, before).await?;
                (Effect::Updated, version, Some(store))
            }
            (Decision::Save(store), _) => {
                if !self.create(tx, &store).await? {
                    return Ok(None);
                }
                let version = self.version(tx, id, before).await?;
                (Effect::Created, version, Some(store))
            }
            (Decision::Delete, _) => {
                let delete = sqlx::query("DELETE FROM store WHERE id = $1").bind(id.as_str());
                delete.execute(&mut **tx).await?;
                let version = self.version(tx, id, before).await?;
                (Effect::Deleted, version, None)
            }
            (Decision::Keep, Found::Live { store, version }) => {
                (Effect::Unchanged, version, Some(store))
            }
            // Only existing stores can be kept: the domain never decides this.
            (Decision::Keep, _) => {
                return Err(sqlx::Error::RowNotFound.into());
            }
        };
        Ok(Some(Written { effect, version, store }))
    }

    /// The version that the triggers recorded for this transaction's write. If it did not rise,
    /// they did not see the write.
    async fn version(
        &self,
        tx: &mut Tx,
        id: &EntityId,
        before: Version,
    ) -> Result<Version, WriteError> {
        let recorded = self.publisher.recorded(tx, std::slice::from_ref(id)).await?;
        let version = recorded.get(id).map_or(Version::NONE, |recorded| recorded.version);
        if version <= before {
            self.publisher.missed();
            return Err(WriteError::NotCaptured);
        }
        Ok(version)
    }

    /// Makes other writers of these stores wait until this transaction ends, and returns whether any
    /// was there to lock. On SQLite a writing transaction is alone from its start.
    ///
    /// A separate statement, before the reading one: PostgreSQL would read a locked row again,
    /// but not its menus.
    pub(super) async fn lock(&self, tx: &mut Tx, ids: &[EntityId]) -> Result<bool, sqlx::Error> {
        let Some(lock) = &self.sql.lock else {
            return Ok(true);
        };
        let query =
            sqlx::query(AssertSqlSafe(lock.clone())).bind(serde_json::json!(ids).to_string());
        Ok(!query.fetch_all(&mut **tx).await?.is_empty())
    }

    /// Inserts a store, unless one with its ID exists.
    async fn create(&self, tx: &mut Tx, store: &Store) -> Result<bool, sqlx::Error> {
        let (root, menus) = sql::parameters(std::slice::from_ref(store));
        let query = sqlx::query(AssertSqlSafe(self.sql.create.clone())).bind(root);
        if query.execute(&mut **tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        // A shell that enforces no foreign keys may have left the menus of a deleted store.
        self.clear_menus(tx, &[&store.id]).await?;
        self.insert_menus(tx, menus).await?;
        Ok(true)
    }

    /// Writes these states, whatever was there. The ids must be distinct.
    pub(super) async fn save(&self, tx: &mut Tx, stores: &[Store]) -> Result<(), sqlx::Error> {
        let (root, menus) = sql::parameters(stores);
        sqlx::query(AssertSqlSafe(self.sql.save.clone())).bind(root).execute(&mut **tx).await?;
        let ids: Vec<_> = stores.iter().map(|store| &store.id).collect();
        self.clear_menus(tx, &ids).await?;
        self.insert_menus(tx, menus).await
    }

    async fn clear_menus(&self, tx: &mut Tx, ids: &[&EntityId]) -> Result<(), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.sql.clear_menus.clone()));
        query.bind(serde_json::json!(ids).to_string()).execute(&mut **tx).await.map(drop)
    }

    async fn insert_menus(&self, tx: &mut Tx, menus: String) -> Result<(), sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(self.sql.insert_menus.clone())).bind(menus);
        query.execute(&mut **tx).await.map(drop)
    }
}
