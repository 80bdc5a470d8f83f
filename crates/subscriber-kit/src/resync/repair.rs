//! Repairs what differs, in the usual way: by the work queue, and by fresh versions of the owner.

use std::{collections::BTreeMap, time::Duration};

use nudge_protocol::{
    EntityId, Version,
    admin::{Differences, Sweep},
    digest::{Held, MAX_RENEWED, RenewRequest, Renewed},
    sync_api::Lane,
};
use nudge_runtime::{BoxError, mutated};
use tokio::time::sleep;

use super::{
    Resync,
    difference::{Difference, Kind},
    held, is_beyond_belief,
};
use crate::{
    callback::owner_client::{FetchErrorKind, OwnerClient},
    work::{waiting::Waiting, worker::Incoming},
};

/// Removals of one sweep that need no operator's word, however few entities there are.
pub(super) const FEW_REMOVALS: u64 = 100;
/// Most removals that wait in memory for the end of a sweep. The next sweep finds the others.
const MAX_WAITING_REMOVALS: usize = 10_000;
/// Keys that are put onto the work queue at a time.
pub(super) const KEYS_AT_A_TIME: usize = 256;
/// How often to check whether they are applied.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait without progress until they are, in which the owner neither answers nor asks to come again later.
const PATIENCE: Duration = Duration::from_secs(5);

impl Resync {
    /// Counts what was found.
    pub(super) fn note<'a>(&mut self, found: impl Iterator<Item = &'a Difference>) {
        for one in found {
            *count(&mut self.current().differences, one.kind) += 1;
            self.progress.differ(one.kind.as_str(), 1);
        }
    }

    /// Repairs what was found on a page, except for removals, which wait until the end of the sweep.
    pub(super) async fn repair(
        &mut self,
        confirmed: Vec<Difference>,
        overdue: Vec<Difference>,
    ) -> Result<(), BoxError> {
        let (mut ask, mut report) = (overdue, Vec::new());
        for one in confirmed {
            match one.kind {
                Kind::Missing | Kind::Lagging => {
                    mutated!(DifferencesIgnored: ask.push(one) => drop(one));
                }
                // The next sweep finds it with a version that the owner can exceed.
                _ if is_beyond_belief(one.ours) => self.rows.lower(&one).await?,
                _ if one.removes => self.keep_removal(held(&one)),
                _ => report.push(held(&one)),
            }
        }
        for part in ask.chunks(KEYS_AT_A_TIME) {
            self.apply(part).await?;
        }
        self.renew(report).await.map(drop)
    }

    pub(super) fn keep_removal(&mut self, Held { id, version }: Held) {
        // A page that is looked at again adds nothing.
        if self.removals.len() < MAX_WAITING_REMOVALS {
            let is_new = self.removals.insert(id, version).is_none();
            self.current().removals += u64::from(is_new);
        } else if !self.removals.contains_key(&id) {
            self.current().removals += 1;
        }
    }

    /// Puts keys onto the work queue, and waits until they are applied. A page is only left behind then: a crash
    /// before that looks at it again.
    async fn apply(&mut self, part: &[Difference]) -> Result<(), BoxError> {
        for one in part {
            self.enqueue(one.id.clone(), one.theirs).await?;
        }
        let mut waiting = Waiting::new(PATIENCE);
        // The next sweep finds what is left.
        while waiting.goes_on(self.rows.behind(part).await?, self.answered()) {
            self.look_on().await?;
        }
        Ok(())
    }

    /// Lets every one of these be read and applied again.
    pub(super) async fn again(&mut self, ids: &[EntityId]) -> Result<(), BoxError> {
        self.rows.outdate(ids).await?;
        for id in ids {
            self.enqueue(id.clone(), Version::NONE).await?;
        }
        // Dead letters are none of these; all others must be read before the page is left behind.
        let mut waiting = Waiting::new(PATIENCE);
        while waiting.goes_on(self.rows.outdated(ids).await?, self.answered()) {
            self.look_on().await?;
        }
        if waiting.is_in_vain() {
            return Err("what was to be applied again is not".into());
        }
        self.progress.refilled.inc_by(ids.len() as u64);
        Ok(())
    }

    /// What the owner has answered, for whichever key; `None` while it is too busy for some of the backlog.
    fn answered(&self) -> Option<u64> {
        let waits = self.owner.busy(Lane::Backlog).is_some();
        (!waits).then(|| self.progress.fetched.get())
    }

    /// A moment in which keys are being applied.
    async fn look_on(&mut self) -> Result<(), BoxError> {
        sleep(LOOK).await;
        self.look_again().await
    }

    /// Removes what the owner does not have, if that is little or allowed.
    pub(super) async fn remove(&mut self, sweep: &Sweep, allowed: bool) -> Result<(), BoxError> {
        let removals = mutated!(GhostsKept: self.removals.clone() => BTreeMap::new());
        let few = (sweep.compared / 100).max(FEW_REMOVALS);
        if sweep.removals > few && !allowed {
            if self.status.removals_waiting != sweep.removals {
                tracing::error!(
                    entity = %self.entity,
                    removals = sweep.removals,
                    compared = sweep.compared,
                    "the owner does not have many entities that are here: is it the right owner? They are removed once \
                     `nudge resync --allow-removals` allows it"
                );
            }
            self.status.removals_waiting = sweep.removals;
            self.progress.removals_waiting.set(sweep.removals as i64);
            return Ok(());
        }
        self.status.removals_waiting = 0;
        self.progress.removals_waiting.set(0);
        if !self.rows.tombstones {
            // The owner forgets what it deletes. It is asked twice whether it has.
            for id in removals.into_keys() {
                self.enqueue(id, Version::NONE).await?;
            }
            return Ok(());
        }
        let removals = removals.into_iter().map(|(id, version)| Held { id, version });
        self.renew(removals.collect()).await.map(drop)
    }

    pub(super) async fn enqueue(&self, id: EntityId, floor: Version) -> Result<(), BoxError> {
        let queued = self.queue.send(Incoming::unasked(id, floor, 0)).await;
        queued.map_err(|_| "the subscriber has stopped".into())
    }

    /// Reports versions that the owner does not have. It gives those entities fresh ones, and publishes them. Returns
    /// whether it offers that.
    pub(super) async fn renew(&self, mut report: Vec<Held>) -> Result<bool, BoxError> {
        let mut at_a_time = MAX_RENEWED;
        while !report.is_empty() {
            let items = report.split_off(report.len().saturating_sub(at_a_time));
            let mut request = RenewRequest { items };
            let renewed = self.client.renew(&self.entity, &request).await;
            match renewed {
                // What it leaves out is found again by the next sweep. It looks at one at least, whatever it says: otherwise
                // this would never end.
                Ok(Renewed { unanswered, .. }) => {
                    let unanswered = usize::try_from(unanswered).unwrap_or(usize::MAX);
                    let answered = request.items.len().saturating_sub(unanswered).max(1);
                    report.append(&mut request.items.split_off(answered));
                    // As many as it may soon have a turn for: it has to read them all.
                    at_a_time = (answered * 2).min(MAX_RENEWED);
                }
                Err(error) if error.kind == FetchErrorKind::Misconfigured => {
                    let entity = &self.entity;
                    tracing::warn!(%entity, %error, "the owner gives no fresh versions: what only an owner can repair stays");
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

fn count(differences: &mut Differences, kind: Kind) -> &mut u64 {
    match kind {
        Kind::Missing => &mut differences.missing,
        Kind::Lagging => &mut differences.lagging,
        Kind::Ahead => &mut differences.ahead,
        Kind::Stale => &mut differences.stale,
        Kind::Ghost => &mut differences.ghosts,
    }
}
