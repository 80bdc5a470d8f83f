//! Checks while the program runs that the triggers are still there.
//!
//! A table can be renamed and recreated, a trigger disabled or dropped, a column added: from then on changes
//! are lost, and nobody notices. So the schema is checked on a timer, and each write of the owner's own program
//! can check that its change was recorded. Missing triggers are reinstalled, and every entity is recorded once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_protocol::EntityName;
use nudge_runtime::{
    Database,
    alerts::{Alarm, What},
    database::{Kind, is_conflict},
    problem::chain,
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{CaptureError, Fault, Tables, install, look, noted, record::record_all};

/// Interval between checks of the triggers while the program runs. A check reads the schema, but no table.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Pause at startup between attempts to install them while a transaction uses the table. Writers continue meanwhile.
pub const INSTALL_PAUSE: Duration = Duration::from_secs(2);

/// The capture of one entity, while its owner runs.
#[derive(Debug)]
pub(crate) struct Capture {
    db: Database,
    entity: EntityName,
    tables: Tables,
    /// The definition that this program last found or installed.
    definition: Mutex<String>,
    lost: AtomicBool,
    look: Notify,
    pub(crate) gauge: Gauge,
    pub(crate) mended: Counter,
    alarm: Alarm,
}

impl Capture {
    /// Installs the triggers, unless exactly these exist.
    pub(crate) async fn install(
        db: &Database,
        entity: &EntityName,
        tables: &Tables,
        alarm: Alarm,
    ) -> Result<Arc<Self>, CaptureError> {
        let capture = Self {
            db: db.clone(),
            entity: entity.clone(),
            tables: tables.clone(),
            definition: Mutex::default(),
            lost: AtomicBool::new(false),
            look: Notify::new(),
            gauge: Gauge::default(),
            mended: Counter::default(),
            alarm,
        };
        while let Err(error) = capture.install_again().await {
            match &error {
                // Somebody's transaction uses the table, for however long.
                CaptureError::Database { source, .. }
                    if db.kind() == Kind::Postgres && is_conflict(source) =>
                {
                    tracing::warn!(%entity, error = %chain(&error), "capture: cannot install the triggers yet; retrying");
                    tokio::time::sleep(INSTALL_PAUSE).await;
                }
                _ => return Err(error),
            }
        }
        Ok(Arc::new(capture))
    }

    async fn install_again(&self) -> Result<(), CaptureError> {
        let definition = install(&self.db, &self.entity, &self.tables).await?;
        *self.definition.lock() = definition;
        self.found(false);
        self.record_all().await
    }

    /// Records every entity once, if that is left to do: by this program or by another that has ended since.
    async fn record_all(&self) -> Result<(), CaptureError> {
        let recorded = record_all(&self.db, &self.entity, self.tables.of_root()).await;
        recorded.map_err(|fault| fault.of(&self.entity))
    }

    /// Whether changes are known to be lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Reports that a change was not recorded. The triggers are checked immediately.
    pub(crate) fn missed(&self) {
        self.found(true);
        self.look.notify_one();
    }

    fn found(&self, lost: bool) {
        self.gauge.set(i64::from(lost));
        if self.lost.swap(lost, Relaxed) != lost {
            let entity = &self.entity;
            match lost {
                true => {
                    self.alarm.raise(What::CaptureLost, None);
                    tracing::error!(%entity, "changes are not captured: the triggers are not as installed")
                }
                false => {
                    self.alarm.clear(What::CaptureLost, None);
                    tracing::info!(%entity, "changes are captured again, and every entity is recorded once")
                }
            }
        }
    }

    /// Checks until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.look.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            // Recording everything may take long.
            let Some(looked) = stop.run_until_cancelled(self.look_and_mend()).await else { return };
            if let Err(error) = looked {
                tracing::warn!(entity = %self.entity, error = %chain(&error), "capture: cannot check the triggers; retrying");
            }
        }
    }

    async fn look_and_mend(&self) -> Result<(), CaptureError> {
        let work = async {
            let mut tx = self.db.snapshot().await?;
            // Another release has installed its own since: it maintains them, and must not be overridden here.
            let others = noted(&mut tx, &self.entity)
                .await?
                .is_some_and(|noted| noted != *self.definition.lock());
            let plan = match others {
                true => None,
                false => look(&mut tx, &self.entity, &self.tables).await?,
            };
            tx.commit().await?;
            Ok(plan)
        };
        match self.db.run(work).await {
            Ok(None) => {
                self.found(false);
                self.record_all().await
            }
            Ok(Some(_)) => {
                self.found(true);
                self.install_again().await?;
                self.mended.inc();
                Ok(())
            }
            // The table does not exist, or cannot be captured as it is now.
            Err(fault @ (Fault::Table { .. } | Fault::Id { .. })) => {
                self.found(true);
                Err(fault.of(&self.entity))
            }
            Err(fault) => Err(fault.of(&self.entity)),
        }
    }
}
