//! Whether the read model holds what its owner says, not only in the same versions: everything in turn, slowly, and the
//! newest entities every minute. What was altered behind the kit's back is applied again.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, Version,
    admin::{ContentsPass, ContentsStatus},
    digest::{Held, Range, RangeRow},
    sync_api::ItemStatus,
};
use nudge_runtime::{BoxError, clock, mutated};
use tokio::time::Instant;

use super::{Resync, rows::Rows};
use crate::{
    apply::Apply,
    callback::owner_client::fetch_all,
    read_model::contents::{Altered, Ids},
    settings::ResyncSettings,
    work::{batch::Batches, outcome::read_item},
};

/// Entities that are compared at a time: one callback, and one transaction that is rolled back.
const PAGE: usize = 256;
/// How much longer a pause between two pages lasts than the owner's budget demands: most of that is for comparing
/// versions.
const SHARE: u32 = 4;
/// Longest pause, even if the owner is slow: so 1,000,000 entities are compared within a day.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// An ID above all that can occur.
const HIGHEST: &str = "\u{10FFFF}";

/// The contents of one page.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    /// What differs; `None` if the handler does not say how to read.
    altered: Option<Altered>,
    /// Of the strays, those that the owner does not have either.
    unknown: Vec<EntityId>,
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
            let (owner, entity) = (&*self.owner.client, &self.settling.entity);
            let asked: Vec<_> = applied.iter().map(|row| row.id.clone()).collect();
            let began = Instant::now();
            // What the owner cannot answer now is compared in the next pass.
            let (items, _) = fetch_all(owner, entity, &asked, self.fields).await;
            let mut took = began.elapsed();
            let read = items.iter().filter_map(|item| read_item(item, clock::now()).ok()?.1);
            let mut states: Vec<_> = read.collect();
            let altered = self.applier.altered(ranges, &mut states).await?;
            let strays = altered.as_ref().map_or(&[][..], |altered| &altered.strays);
            let mut unknown = Vec::new();
            for strays in strays.chunks(PAGE) {
                let began = Instant::now();
                let (items, _) = fetch_all(owner, entity, strays, self.fields).await;
                took += began.elapsed();
                let strangers = items.into_iter().filter(|item| item.status == ItemStatus::Unknown);
                unknown.extend(strangers.map(|item| item.id));
            }
            Ok(Audited { altered, unknown, took })
        })
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
    /// Compares the next contents, if it is time.
    pub(super) async fn contents(&mut self) -> Result<(), BoxError> {
        if !self.auditor.readable || self.why_not().is_some() {
            return Ok(());
        }
        if Instant::now() >= self.auditor.newest {
            self.auditor.newest = Instant::now() + self.settings.newest_contents_interval;
            self.newest_contents().await?;
        }
        if Instant::now() < self.auditor.next {
            return Ok(());
        }
        // Even if it fails.
        self.auditor.next = Instant::now() + MAX_PAUSE.max(self.settings.contents_interval);
        let after = self.status.contents.current.as_ref().and_then(|pass| pass.after.clone());
        // With tombstones, even if their versions are not compared.
        let rows = Rows { tombstones: true, ..self.rows.clone() };
        let (rows, range) = rows.of(&Range { after, to: None }, PAGE).await?;
        let first = range.after.as_ref().map_or("", EntityId::as_str);
        let last = range.to.as_ref().map_or(HIGHEST, EntityId::as_str);
        let took = self.audit(&[first..=last], &rows).await?;
        let ContentsStatus { current, last } = &mut self.status.contents;
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
        Ok(())
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
        let Audited { altered: Some(Altered { altered, strays }), unknown, took } = audited else {
            self.auditor.readable = false;
            return Ok(Duration::ZERO);
        };
        let pass = self.status.contents.current.get_or_insert_with(begin);
        pass.compared += applied.len() as u64;
        pass.altered += altered.len() as u64;
        pass.strays += strays.len() as u64;
        self.progress.contents_compared.inc_by(applied.len() as u64);
        for (kind, found) in [("altered", &altered), ("stray", &strays)] {
            if !found.is_empty() {
                let count = found.len() as u64;
                self.progress.differences.get_or_create(&[("kind", kind)]).inc_by(count);
                let (entity, first) = (&self.entity, &found[0]);
                tracing::warn!(%entity, count, %first, "the read model was altered ({kind}): repairing");
            }
        }
        let altered = mutated!(AlteredRowsKept: altered => Vec::new());
        self.rows.outdate(&altered).await?;
        let strangers: HashSet<_> = unknown.iter().collect();
        for id in altered.iter().chain(strays.iter().filter(|id| !strangers.contains(id))) {
            self.enqueue(id.clone(), Version::NONE).await?;
        }
        // The owner gives it a tombstone, which removes the row. No version is below this one.
        let version = Version::new(1)?;
        for id in mutated!(StrayRowsKept: unknown => Vec::new()) {
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
        altered: 0,
        strays: 0,
    }
}
