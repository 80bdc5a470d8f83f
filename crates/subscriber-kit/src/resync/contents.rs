//! Whether the read model holds what its owner says, not only in the same versions: everything in turn, slowly, and the
//! newest entities every minute. What was altered behind the kit's back is applied again.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, MAX_ENTITY_ID_BYTES, Version,
    admin::{ContentsPass, ContentsStatus},
    digest::{Held, Range, RangeRow},
    sync_api::{Item, ItemStatus},
};
use nudge_runtime::{BoxError, clock, mutated};
use tokio::time::Instant;

use super::{RETRY_INTERVAL, Resync, rows::Rows};
use crate::{
    apply::Apply,
    callback::{
        owner_client::{FetchError, fetch_all, timed},
        patient::Patient,
    },
    read_model::contents::{Altered, Ids},
    settings::ResyncSettings,
    telemetry::progress::{ALTERED, STRAY},
    work::{batch::Batches, outcome::read_item},
};

/// Entities that are compared at a time: one callback, and one transaction that is rolled back.
const PAGE: usize = 256;
/// How much longer a pause between two pages lasts than the owner's budget demands: most of that is for comparing
/// versions.
const SHARE: u32 = 4;
/// Longest pause, even if the owner is slow: so 1,000,000 entities are compared within a day.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// Into how many parts a page is divided if the owner fails for it.
const PARTS: usize = 16;

/// The contents of one page.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    /// What differs; `None` if the handler does not say how to read.
    altered: Option<Altered>,
    /// The strays that the owner does not have either, and those that it has.
    unknown: Vec<EntityId>,
    known: Vec<EntityId>,
    /// How long the owner took.
    took: Duration,
}

/// A handler's tables and their owner, whatever the type of the state.
pub(crate) trait Contents: Send + Sync {
    /// Compares the entities in these ranges, of which these are applied.
    fn audit<'a>(
        &'a self,
        ranges: &'a [Ids<'a>],
        applied: &'a [RangeRow],
    ) -> Pin<Box<dyn Future<Output = Result<Audited, BoxError>> + Send + 'a>>;
}

impl<A: Apply> Contents for Batches<A> {
    fn audit<'a>(
        &'a self,
        ranges: &'a [Ids<'a>],
        applied: &'a [RangeRow],
    ) -> Pin<Box<dyn Future<Output = Result<Audited, BoxError>> + Send + 'a>> {
        Box::pin(async move {
            let asked: Vec<_> = applied.iter().map(|row| row.id.clone()).collect();
            let (owner, mut took) = (Patient::of(&self.owner), Duration::ZERO);
            let items = self.fetch(&owner, &asked, &mut took).await?;
            let read = items.iter().filter_map(|item| read_item(item, clock::now()).ok()?.1);
            let mut states: Vec<_> = read.collect();
            let altered = self.applier.altered(ranges, &mut states).await?;
            let strays = altered.as_ref().map_or(&[][..], |altered| &altered.strays);
            let (mut unknown, mut known) = (Vec::new(), Vec::new());
            for strays in strays.chunks(PAGE) {
                for item in self.fetch(&owner, strays, &mut took).await? {
                    let is_unknown = item.status == ItemStatus::Unknown;
                    (if is_unknown { &mut unknown } else { &mut known }).push(item.id);
                }
            }
            Ok(Audited { altered, unknown, known, took })
        })
    }
}

impl<A: Apply> Batches<A> {
    /// The owner's states of these. Leaves out those for which it fails, unless it fails for all.
    async fn fetch(
        &self,
        owner: &Patient,
        ids: &[EntityId],
        took: &mut Duration,
    ) -> Result<Vec<Item>, FetchError> {
        let entity = &self.settling.entity;
        let fetching = fetch_all(owner, entity, ids, self.fields);
        let (mut items, mut fetched) = timed(owner, took, fetching).await;
        // One that is away would be so for each part.
        if fetched.as_ref().is_err_and(|error| !error.kind.is_owners()) {
            items.clear();
            for part in ids.chunks(ids.len().div_ceil(PARTS)) {
                let fetching = fetch_all(owner, entity, part, self.fields);
                let (some, result) = timed(owner, took, fetching).await;
                items.extend(some);
                if result.is_ok() {
                    fetched = Ok(());
                }
            }
        }
        fetched.map(|()| items)
    }
}

/// When to compare contents next.
pub(super) struct Auditor {
    contents: Arc<dyn Contents>,
    /// Whether the handler says how to read, as far as is known.
    readable: bool,
    next: Instant,
    newest: Instant,
}

impl Auditor {
    pub(super) fn new(contents: Arc<dyn Contents>, settings: &ResyncSettings) -> Self {
        let next = Instant::now() + settings.contents_interval;
        let newest = Instant::now() + settings.newest_contents_interval;
        Self { contents, readable: true, next, newest }
    }
}

impl Resync {
    /// Compares the next contents, if it is time. Versions are compared even if that fails.
    pub(super) async fn contents_or_why_not(&mut self) -> Result<(), BoxError> {
        let why_not = match self.contents().await {
            Ok(false) => return Ok(()),
            Ok(true) => None,
            Err(error) => Some(error.to_string()),
        };
        if self.status.contents.waits_for == why_not {
            return Ok(());
        }
        if let Some(error) = &why_not {
            let entity = &self.entity;
            tracing::warn!(%entity, %error, "cannot compare contents: retrying");
        }
        self.status.contents.waits_for = why_not;
        Ok(self.ledger.save_contents(&self.status.contents).await?)
    }

    /// Compares the next contents, if it is time. Returns whether it was.
    async fn contents(&mut self) -> Result<bool, BoxError> {
        if !self.auditor.readable || self.why_not().is_some() {
            return Ok(false);
        }
        if Instant::now() >= self.auditor.newest {
            self.auditor.newest = Instant::now() + self.settings.newest_contents_interval;
            self.newest_contents().await?;
        }
        if Instant::now() < self.auditor.next {
            return Ok(false);
        }
        // Even if it fails.
        self.auditor.next = Instant::now() + RETRY_INTERVAL.max(self.settings.contents_interval);
        let after = self.status.contents.current.as_ref().and_then(|pass| pass.after.clone());
        // With tombstones, even if their versions are not compared.
        let rows = Rows { tombstones: true, ..self.rows.clone() };
        let (rows, range) = rows.of(&Range { after, to: None }, PAGE).await?;
        let first = range.after.as_ref().map_or("", EntityId::as_str);
        // Above all that can occur.
        let highest = "\u{10FFFF}".repeat(MAX_ENTITY_ID_BYTES / 4);
        let last = range.to.as_ref().map_or(highest.as_str(), EntityId::as_str);
        let took = self.audit(&[first..=last], &rows).await?;
        let ContentsStatus { current, last, .. } = &mut self.status.contents;
        if let Some(pass) = current {
            pass.after.clone_from(&range.to);
        }
        if range.to.is_none()
            && let Some(pass) = current.take()
        {
            *last = Some(ContentsPass { ended_at: Some(clock::now()), ..pass });
        }
        self.ledger.save_contents(&self.status.contents).await?;
        let pause = took * (100 / self.settings.owner_percent.clamp(1, 100)) * SHARE;
        let pause = pause.min(MAX_PAUSE).max(self.settings.contents_interval);
        self.auditor.next = Instant::now() + pause;
        Ok(true)
    }

    /// The contents of the newest entities.
    async fn newest_contents(&mut self) -> Result<(), BoxError> {
        for page in self.recent.ids().chunks(PAGE) {
            let applied = self.rows.those(page.iter()).await?;
            let ranges: Vec<_> = page.iter().map(|id| id.as_str()..=id.as_str()).collect();
            self.audit(&ranges, &applied).await?;
        }
        Ok(())
    }

    /// Compares contents, and repairs what differs. Returns how long the owner took.
    async fn audit(
        &mut self,
        ranges: &[Ids<'_>],
        applied: &[RangeRow],
    ) -> Result<Duration, BoxError> {
        let audited = self.auditor.contents.audit(ranges, applied).await?;
        let Audited { altered: Some(found), unknown, known, took } = audited else {
            self.auditor.readable = false;
            return Ok(Duration::ZERO);
        };
        let Altered { compared, altered, strays, marked } = found;
        // What is marked was on the work queue of a replica that has ended, or still is.
        let again = [known, marked].concat();
        let again = self.rows.not_set_aside(again).await?;
        let pass = self.status.contents.current.get_or_insert_with(begin);
        pass.compared += compared;
        pass.left_out += applied.len() as u64 - compared;
        pass.altered += altered.len() as u64;
        pass.strays += strays.len() as u64;
        self.progress.contents_compared.inc_by(compared);
        for (kind, found) in [(ALTERED, &altered), (STRAY, &strays)] {
            if !found.is_empty() {
                let count = found.len() as u64;
                self.progress.differ(kind, count);
                let (entity, first) = (&self.entity, &found[0]);
                tracing::warn!(%entity, count, %first, "the read model was altered ({kind}): repairing");
            }
        }
        let altered = mutated!(AlteredRowsKept: altered => Vec::new());
        self.rows.outdate(&altered).await?;
        for id in altered.into_iter().chain(again) {
            self.enqueue(id, Version::NONE).await?;
        }
        let unknown = mutated!(StrayRowsKept: unknown => Vec::new());
        if !self.rows.tombstones {
            self.rows.adopt(&unknown).await?;
            return Ok(took);
        }
        // The owner gives it a tombstone, which removes the row. No version is below this one.
        let version = Version::new(1)?;
        for id in unknown {
            self.keep_removal(Held { id, version });
        }
        Ok(took)
    }
}

fn begin() -> ContentsPass {
    ContentsPass {
        began_at: clock::now(),
        ended_at: None,
        after: None,
        compared: 0,
        left_out: 0,
        altered: 0,
        strays: 0,
    }
}
