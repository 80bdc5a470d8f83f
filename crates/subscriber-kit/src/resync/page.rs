//! One page of a comparison: what is here, what differs, and whether it still does a moment later.

use std::{collections::HashSet, sync::atomic::Ordering::Relaxed, time::Duration};

use nudge_protocol::{
    admin::{BreakerState, Sweep},
    digest::{Handled, Range},
    sync_api::{Lane, MAX_ITEMS_LIMIT},
};
use nudge_runtime::BoxError;
use tokio::time::sleep;

use super::{
    Compared, Comparer, Difference, MIN_REACH, Ours, Resync,
    agreed::agree,
    begin,
    difference::{Kind, found_twice},
    repair::KEYS_AT_A_TIME,
};

/// How many times longer something must differ if the owner does not say what is in flight.
const PATIENCE_WITHOUT_DIGESTS: u32 = 10;

/// What comparing waits for while the owner has no turn for it.
pub(super) const BUSY: &str = "the owner is busy and asks to come again later";

/// How a page ended.
pub(super) enum Page {
    /// It is compared, up to the end of everything if that is `last`. It took the owner so long.
    Done { last: bool, took: Duration },
    /// There is nothing to compare yet, because of this.
    NotYet(&'static str),
}

impl Resync {
    /// Compares the next page, and repairs what differs.
    pub(super) async fn page(&mut self) -> Result<Page, BoxError> {
        if let Some(why) = self.why_not() {
            return Ok(Page::NotYet(why));
        }
        let owner = self.owner.client.address();
        let full = self.is_full();
        if self.status.current.as_ref().is_some_and(|sweep| sweep.owner != owner) {
            self.status.current = Some(Sweep { full, ..begin(owner.clone()) });
            self.removals.clear();
        }
        let after = self.current().after.clone();
        // What is applied again is counted in requests, not in sums.
        let limit = if full { KEYS_AT_A_TIME } else { self.reach }.min(self.settings.page);
        let (client, overdue_after) = (self.client.clone(), self.settings.overdue_after);
        let mut comparer = Comparer::new(client, self.entity.clone(), overdue_after);
        comparer.likely = self.differed;
        let Some(ours) = self.ours(&Range { after, to: None }, limit).await? else {
            return Ok(Page::NotYet("the position in the stream is not known"));
        };
        let compared = comparer.compare(&ours).await?;
        let Compared { range: Some(range), leaves, differences, in_flight, mut overdue } = compared
        else {
            return Ok(Page::NotYet(
                "too much is in flight, or the owner publishes to another stream",
            ));
        };
        if let Some(mut except) = in_flight {
            except.extend(differences.iter().map(|one| one.id.clone()));
            self.end_by_proof(&range, &except).await?;
        }
        // What lies beyond is found with the next page.
        overdue.retain(|one| range.holds(&one.id));
        self.differed = !differences.is_empty();
        let mut left_out = std::mem::take(&mut comparer.left_out);
        // Even if they turn out to be none.
        left_out.extend(differences.iter().map(|one| one.id.clone()));
        left_out.retain(|id| range.holds(id));
        let confirmed = self.confirm(&mut comparer, &leaves, differences).await?;
        // A busy owner may have kept the page waiting for long.
        let overdue = self.rows.still_behind(overdue).await?;
        let found = confirmed.len() + overdue.len();
        let rows = ours.within(&range);
        let compared = rows.len() as u64;
        let covered = if range.to == ours.range.to { self.reach } else { rows.len() };
        self.reach = covered.max(MIN_REACH).saturating_mul(2);
        self.progress.compared.inc_by(compared);
        let not_seen = rows.iter().filter(|row| left_out.contains(&row.id)).count();
        // Those found are among the ones left out.
        let seen = compared - not_seen as u64 + found as u64;
        self.observe(seen, confirmed.iter().chain(&overdue));
        let (confirmed, overdue) = (self.unknown(confirmed).await?, self.unknown(overdue).await?);
        let set_aside = found - confirmed.len() - overdue.len();
        self.note(confirmed.iter().chain(&overdue));
        // What the owner does not have waits for an operator's word.
        let except: HashSet<_> = confirmed.iter().map(|one| one.id.clone()).collect();
        self.repair(confirmed, overdue).await?;
        if full {
            let others = rows.iter().filter(|row| !except.contains(&row.id));
            let ids: Vec<_> = others.map(|row| row.id.clone()).collect();
            self.again(&ids).await?;
        }
        let current = self.current();
        current.compared += compared;
        agree(&mut current.agreed, rows, &left_out);
        current.set_aside += set_aside as u64;
        current.after.clone_from(&range.to);
        Ok(Page::Done { last: range.to.is_none(), took: comparer.took })
    }

    /// Why nothing can be compared now.
    pub(super) fn why_not(&self) -> Option<&'static str> {
        if !self.progress.caught_up.load(Relaxed) {
            Some("the first catch-up is not complete")
        } else if self.owner.breaker().state() != BreakerState::Closed {
            Some("the owner is failing")
        } else if self.owner.busy(Lane::Backlog).is_some_and(|busy| busy.most == 0) {
            Some(BUSY)
        } else {
            None
        }
    }

    /// How far the stream is handled.
    pub(super) async fn handled(&self) -> Result<Option<Handled>, sqlx::Error> {
        let position = self.positions.read().await?;
        Ok(position.map(|position| Handled {
            stream_created: position.stream_created,
            seq: position.position,
        }))
    }

    /// This side of a range. The position is read before the rows: whatever the owner has changed since counts as in
    /// flight.
    async fn ours(&self, range: &Range, limit: usize) -> Result<Option<Ours>, BoxError> {
        let Some(handled) = self.handled().await? else { return Ok(None) };
        let (rows, range) = self.rows.of(range, limit).await?;
        Ok(Some(Ours { range, rows, handled }))
    }

    /// Looks a second time at what differs, after a pause.
    async fn confirm(
        &self,
        comparer: &mut Comparer,
        leaves: &[Range],
        first: Vec<Difference>,
    ) -> Result<Vec<Difference>, BoxError> {
        if first.is_empty() {
            return Ok(first);
        }
        let wait = self.settings.confirm_after;
        sleep(if comparer.offers_digests { wait } else { wait * PATIENCE_WITHOUT_DIGESTS }).await;
        let mut second = Vec::new();
        for leaf in leaves {
            // A range in which much is missing here may hold more rows by now; those are no differences found before.
            let Some(ours) = self.ours(leaf, self.settings.page.max(MAX_ITEMS_LIMIT)).await? else {
                return Ok(Vec::new());
            };
            match comparer.list(std::slice::from_ref(&ours.range), &ours).await? {
                Some(differences) => second.extend(differences),
                // Nothing is confirmed; the next sweep finds it again.
                None => return Ok(Vec::new()),
            }
        }
        second.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found_twice(first, &second))
    }

    /// Those of which nobody knows yet. What is parked or a dead letter is retried as such, or waits for an operator;
    /// but no retry repairs what the owner does not have.
    pub(super) async fn unknown(
        &self,
        found: Vec<Difference>,
    ) -> Result<Vec<Difference>, BoxError> {
        if found.is_empty() {
            return Ok(found);
        }
        let set_aside = self.rows.set_aside(&found).await?;
        let retried = |one: &Difference| {
            matches!(one.kind, Kind::Missing | Kind::Lagging) && set_aside.contains(&one.id)
        };
        Ok(found.into_iter().filter(|one| !retried(one)).collect())
    }
}
