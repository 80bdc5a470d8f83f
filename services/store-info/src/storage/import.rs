//! One batch of an import, in one transaction.

use std::time::Duration;

use nudge_runtime::database::{Kind, is_retryable};

use super::{Stores, by_id, sql};
use crate::domain::{
    Effect, Store,
    import::{Plan, plan},
};

/// Attempts of one batch before the import gives up, with pauses that double between them.
const MAX_ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Stores that did not exist, or were deleted.
    pub created: u64,
    /// Stores whose state changed.
    pub updated: u64,
    /// Lines that changed nothing.
    pub unchanged: u64,
}

impl Stores {
    /// Writes a batch with a few statements, however many stores it has. While the database is busy or gone
    /// it retries for some seconds, since an import cannot easily be sent again.
    pub async fn import(&self, batch: Vec<Store>) -> Result<BatchReport, sqlx::Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..MAX_ATTEMPTS {
            match self.db.run(self.import_once(batch.clone())).await {
                Err(error) if is_retryable(&error) => {
                    tracing::warn!(%error, "retrying a batch of an import");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.db.run(self.import_once(batch)).await
    }

    async fn import_once(&self, batch: Vec<Store>) -> Result<BatchReport, sqlx::Error> {
        if self.publisher.is_capture_lost() {
            let problem = std::io::Error::other("changes of stores are not being captured");
            return Err(sqlx::Error::Io(problem));
        }
        let mut ids: Vec<_> = batch.iter().map(|store| store.id.clone()).collect();
        ids.sort();
        ids.dedup();
        let mut tx = self.publisher.begin_read_committed().await?;
        if self.db.kind() == Kind::Postgres {
            sqlx::query(sql::LOCK_IMPORTS).execute(&mut *tx).await?;
        }
        self.lock(&mut tx, &ids).await?;
        // Unreadable rows are overwritten.
        let current = self.read(&mut tx, &ids).await?.into_iter().filter_map(Result::ok);
        let current = by_id(current.collect());
        let Plan { create, update, unchanged } = plan(batch, &current);
        let report =
            BatchReport { created: create.len() as u64, updated: update.len() as u64, unchanged };
        if create.is_empty() && update.is_empty() {
            tx.rollback().await?;
        } else {
            let mut stores = create;
            stores.extend(update);
            self.save(&mut tx, &stores).await?;
            self.publisher.commit(tx).await?;
        }
        self.metrics.wrote(Effect::Created, report.created);
        self.metrics.wrote(Effect::Updated, report.updated);
        self.metrics.wrote(Effect::Unchanged, report.unchanged);
        Ok(report)
    }
}
