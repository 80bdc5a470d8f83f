//! Compares the read model with its owner, continuously and in the background, and repairs what differs.
//!
//! Notifications can be lost for good, and rows can be edited behind the kit's back. No message tells of either. So
//! every version here is compared with the owner's, page by page in order of IDs: digests of ranges first, and
//! single entities only where those differ (`compare.rs`). A difference that is found twice is repaired in the usual
//! way:
//!
//! - What is missing or lags behind goes onto the work queue, as backlog.
//! - What the owner does not have, or only in an older version, is reported to it, and it gives the entity a fresh
//!   version. Nothing passes the guard.
//!
//! An owner that suddenly knows little may be the wrong one: if many entities would be removed, an operator has to
//! allow it.

mod ages;
pub(crate) mod agreed;
mod compare;
pub(crate) mod contents;
pub(crate) mod difference;
pub(crate) mod ledger;
mod page;
mod proof;
mod recent;
mod repair;
mod rows;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use nudge_protocol::{
    EntityId, EntityName, Version,
    admin::{ResyncStatus, Sweep},
    digest::Held,
    sync_api::Lane,
};
use nudge_runtime::{BoxError, Database, alerts::What, clock};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    ages::Ages,
    contents::{Auditor, Contents},
    ledger::{Ledger, Wanted},
    page::Page,
    recent::Recent,
};
pub use self::{
    compare::{Compared, Comparer, Ours},
    difference::Difference,
    rows::Rows,
};
use crate::{
    callback::{owner_link::OwnerLink, patient::Patient},
    read_model::position::Positions,
    settings::ResyncSettings,
    telemetry::progress::Progress,
    work::worker::Incoming,
};

/// Pause before another attempt when there is nothing to compare yet, or the owner or the database fails.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often a replica that does not compare checks whether it has to.
const STANDBY_INTERVAL: Duration = Duration::from_secs(10);
/// How often to check whether an operator wants a comparison now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Compares one followed entity.
pub(crate) struct Resync {
    entity: EntityName,
    owner: OwnerLink,
    /// The owner, to be asked for comparing.
    client: Arc<Patient>,
    rows: Rows,
    positions: Positions,
    ledger: Ledger,
    progress: Arc<Progress>,
    queue: mpsc::Sender<Incoming>,
    paused: watch::Receiver<bool>,
    settings: ResyncSettings,
    status: ResyncStatus,
    recent: Recent,
    auditor: Auditor,
    ages: Ages,
    /// Removals that wait for the end of the sweep, which shows how many they are.
    removals: BTreeMap<EntityId, Version>,
    /// Whether anything differed in the last page.
    differed: bool,
    /// Rows to read for the next page: an owner with a small budget answers for few of them.
    reach: usize,
}

/// Fewest rows that are read for a page.
const MIN_REACH: usize = 64;

/// What it needs of the followed entity.
pub(crate) struct Parts {
    pub(crate) db: Database,
    pub(crate) entity: EntityName,
    pub(crate) owner: OwnerLink,
    pub(crate) progress: Arc<Progress>,
    pub(crate) queue: mpsc::Sender<Incoming>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) settings: ResyncSettings,
    pub(crate) contents: Arc<dyn Contents>,
    /// Whether the owner keeps tombstones.
    pub(crate) tombstones: bool,
}

impl Resync {
    pub(crate) fn new(parts: Parts, ledger: Ledger) -> Self {
        let Parts { db, entity, owner, progress, queue, paused, settings, contents, tombstones } =
            parts;
        let rows = Rows { db: db.clone(), entity: entity.clone(), tombstones };
        let positions = Positions::new(db, entity.clone());
        let (status, removals) = (ResyncStatus::default(), BTreeMap::new());
        let client = Arc::new(Patient::of(&owner));
        Self {
            entity,
            owner,
            client,
            rows,
            positions,
            ledger,
            progress,
            queue,
            paused,
            settings,
            status,
            recent: Recent::default(),
            ages: Ages::default(),
            auditor: Auditor::new(contents, &settings),
            removals,
            differed: false,
            reach: settings.page,
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.hold_and_sweep().await {
                    let (entity, why) = (&self.entity, error.to_string());
                    // Once, however long it lasts.
                    if self.status.waits_for.as_ref() != Some(&why) {
                        tracing::warn!(%entity, %error, "cannot compare the read model with its owner: retrying");
                    }
                    self.waits_for(&why).await;
                    sleep(RETRY_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
        // If the database is away, others take over once this replica is silent.
        let _ = tokio::time::timeout(RETRY_INTERVAL, self.ledger.leave()).await;
    }

    /// Sweeps, if no other replica does.
    async fn hold_and_sweep(&mut self) -> Result<(), BoxError> {
        if *self.paused.borrow() {
            // Another replica may compare meanwhile.
            sleep(LOOK_INTERVAL).await;
            return Ok(());
        }
        let holds = self.ledger.claim().await?;
        let stored = self.ledger.read().await?.status;
        if stored.last.as_ref().is_some_and(is_equal) {
            self.progress.found_equal.store(true, Relaxed);
        }
        if !holds {
            sleep(STANDBY_INTERVAL).await;
            return Ok(());
        }
        self.go_on(stored);
        let (ledger, owner) = (self.ledger.clone(), self.owner.clone());
        let mut paused = self.paused.clone();
        tokio::select! {
            ended = self.sweeps() => ended,
            ended = keep_claimed(&ledger, owner) => ended,
            // A page may wait for a busy owner for long.
            () = async { drop(paused.wait_for(|paused| *paused).await) } => Ok(ledger.leave().await?),
        }
    }

    /// Goes on where the last page ended: after a restart, a failure, or another replica.
    fn go_on(&mut self, stored: ResyncStatus) {
        let waits_for = self.status.waits_for.take();
        let began = |status: &ResyncStatus| status.current.as_ref().map(|sweep| sweep.began_at);
        let is_same = began(&self.status) == began(&stored);
        self.status = ResyncStatus { waits_for, ..stored };
        if !is_same {
            self.removals.clear();
        } else if let Some(sweep) = &mut self.status.current {
            // Those of the page that was not completed are not among the stored number.
            sweep.removals = sweep.removals.max(self.removals.len() as u64);
        }
    }

    /// One page after the other, until another replica has to go on.
    async fn sweeps(&mut self) -> Result<(), BoxError> {
        let mut pause = self.settings.interval;
        loop {
            if !self.pause(pause).await? {
                return Ok(());
            }
            pause = match self.page().await? {
                Page::NotYet(why) => {
                    self.waits_for(why).await;
                    RETRY_INTERVAL
                }
                Page::Done { last, took } => {
                    if !last {
                        self.status.waits_for = None;
                        self.ledger.save(&self.status).await?;
                    } else if !self.end_sweep().await? {
                        return Ok(());
                    }
                    let rest = took * (100 / self.settings.owner_percent.clamp(1, 100) - 1);
                    if last { rest.max(self.settings.interval) } else { rest }
                }
            };
        }
    }

    /// A pause, unless an operator wants a comparison now. Returns whether this replica still compares.
    async fn pause(&mut self, pause: Duration) -> Result<bool, BoxError> {
        let due = Instant::now() + pause;
        loop {
            if *self.paused.borrow() {
                self.ledger.leave().await?;
                return Ok(false);
            }
            match self.ledger.read().await?.wanted {
                Some(Wanted::Anew { full }) if full || !self.is_full() => {
                    self.status.current =
                        Some(Sweep { full, ..begin(self.owner.client.address()) });
                    self.removals.clear();
                    // Before the word is used up: a crash in between must not lose it.
                    self.ledger.save(&self.status).await?;
                    self.ledger.begun().await?;
                    return Ok(true);
                }
                // A full one comes to its end before another begins. What is not possible yet is not tried in vain.
                Some(_) if self.status.waits_for.is_none() => return Ok(true),
                None if self.is_awaited() => return Ok(true),
                _ if Instant::now() >= due => return Ok(true),
                _ => {
                    self.recent().await?;
                    self.contents_or_why_not().await?;
                    self.look_again().await?;
                    sleep_until(due.min(Instant::now() + LOOK_INTERVAL)).await;
                }
            }
        }
    }

    /// Ends a sweep: removals are few enough, or wait. Returns whether this replica still compares.
    async fn end_sweep(&mut self) -> Result<bool, BoxError> {
        let allowed = self.ledger.read().await?.allow_removals;
        // If it fails, the last page is compared once more, and nothing is forgotten.
        let Some(mut sweep) = self.status.current.clone() else { return Ok(true) };
        sweep.ended_at = Some(clock::now());
        sweep.after = None;
        self.remove(&sweep, allowed).await?;
        if sweep.differences.sum() > 0 {
            let (entity, differences) = (&self.entity, sweep.differences);
            tracing::warn!(%entity, ?differences, compared = sweep.compared, "the read model differed from its owner");
        }
        let last = Some(sweep.clone());
        let ended = ResyncStatus { current: None, last, waits_for: None, ..self.status.clone() };
        // Written first: what is said to be equal stays so after a restart.
        if !self.ledger.end(&ended, sweep.removals == 0).await? {
            return Ok(false);
        }
        self.progress.sweeps.inc();
        self.progress.sweep_ended.set(sweep.ended_at);
        if is_equal(&sweep) {
            self.progress.alarm.clear(What::Difference, None);
            self.progress.found_equal.store(true, Relaxed);
        }
        self.removals.clear();
        self.status = ended;
        Ok(true)
    }

    fn is_full(&self) -> bool {
        self.status.current.as_ref().is_some_and(|sweep| sweep.full)
    }

    /// Whether somebody waits until it is ready, and nothing keeps it from comparing. After a comparison that found
    /// differences, it takes its time.
    fn is_awaited(&self) -> bool {
        let ResyncStatus { current, last, waits_for, .. } = &self.status;
        let has_begun = current.is_some() || last.is_none();
        let is_awaited = self.settings.ready_when_equal && !self.progress.found_equal.load(Relaxed);
        is_awaited && has_begun && waits_for.is_none()
    }

    /// The sweep in progress.
    fn current(&mut self) -> &mut Sweep {
        let Self { status, owner, .. } = self;
        status.current.get_or_insert_with(|| begin(owner.client.address()))
    }

    async fn waits_for(&mut self, why: &str) {
        self.status.waits_for = Some(why.to_owned());
        // Nothing else: what a page has found counts once it is complete. Without the database, this is not worth another
        // message.
        let _ = self.ledger.save_waits_for(why).await;
    }
}

/// Says that this replica compares, however long a page takes, and what it waits for if the owner is busy. Returns if another
/// one compares by now.
async fn keep_claimed(ledger: &Ledger, owner: OwnerLink) -> Result<(), BoxError> {
    loop {
        sleep(STANDBY_INTERVAL).await;
        // A database that fails for a moment takes nothing away: the claim outlasts several of these intervals.
        if matches!(ledger.claim().await, Ok(false)) {
            return Ok(());
        }
        if owner.busy(Lane::Backlog).is_some() {
            let _ = ledger.save_waits_for(page::BUSY).await;
        }
    }
}

/// A comparison with the owner at this address that begins now.
fn begin(owner: String) -> Sweep {
    Sweep {
        began_at: clock::now(),
        ended_at: None,
        full: false,
        owner,
        after: None,
        compared: 0,
        differences: Default::default(),
        set_aside: 0,
        agreed: Default::default(),
        removals: 0,
    }
}

/// Whether a complete comparison found nothing that differs.
fn is_equal(sweep: &Sweep) -> bool {
    sweep.differences.sum() == 0 && sweep.set_aside == 0
}

/// Whether no owner can have given this version yet.
fn is_beyond_belief(version: Version) -> bool {
    version > Version::highest_believed(clock::now())
}

/// What a subscriber reports to its owner.
fn held(difference: &Difference) -> Held {
    Held { id: difference.id.clone(), version: difference.ours }
}
