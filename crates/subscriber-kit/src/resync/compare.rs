//! Compares ranges with the owner: digests of large ranges first, then smaller ones only where they differ, and lists
//! at the end. (The descent is that of a Merkle tree, over ranges of IDs instead of hashes.)

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use nudge_protocol::{
    EntityId, EntityName, Version,
    digest::{
        Digest, DigestAnswer, DigestRequest, Handled, InFlight, MAX_RANGES, Range, RangeDigest,
        RangeRow,
    },
    sync_api::{ItemVersion, ItemsPage, ItemsRequest, MAX_ITEMS_LIMIT},
};

use super::difference::{Difference, Kind, differences};
use crate::callback::owner_client::{FetchError, FetchErrorKind, OwnerClient, timed};

/// Into how many parts a range is divided. The digest of each costs 80 bytes, and each further level costs the owner a
/// reading of all that differs.
const PARTS: usize = 64;
/// Rows of a range that is listed instead of divided further.
const LISTED_ROWS: usize = 64;

/// What the subscriber has in a range.
#[derive(Debug)]
pub struct Ours {
    /// The range.
    pub range: Range,
    /// In bytewise order of IDs.
    pub rows: Vec<RangeRow>,
    /// How far the stream was handled before the rows were read.
    pub handled: Handled,
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Compared {
    /// The range that was compared: it may end before the range that should be. `None` if too much is in flight.
    pub range: Option<Range>,
    /// The smallest ranges in which something differs.
    pub leaves: Vec<Range>,
    /// What differs.
    pub differences: Vec<Difference>,
    /// What is in flight in the range and not applied here; `None` if the owner does not say.
    pub in_flight: Option<HashSet<EntityId>>,
    /// Changes that have been in flight for long, and are not applied here.
    pub overdue: Vec<Difference>,
}

/// Compares with one owner, and adds up what it costs.
pub struct Comparer {
    client: Arc<dyn OwnerClient>,
    entity: EntityName,
    /// Whether the owner offers digests. If not, its list is read.
    pub offers_digests: bool,
    /// After how long a change in flight is overdue.
    overdue_after: Duration,
    /// Whether something is likely to differ, so that the owner need not read everything once more to say where.
    pub likely: bool,
    /// The time for which the owner worked for its answers.
    pub took: Duration,
    /// What was named as in flight in any answer, and so left out of what it says.
    pub left_out: HashSet<EntityId>,
}

impl Ours {
    fn version_of(&self, id: &EntityId) -> Option<Version> {
        let found = self.rows.binary_search_by(|row| row.id.cmp(id));
        found.ok().map(|at| self.rows[at].version)
    }

    /// The rows that lie in a range, which must be within this one.
    pub(super) fn within(&self, range: &Range) -> &[RangeRow] {
        let before = |row: &RangeRow| range.after.as_ref().is_some_and(|after| row.id <= *after);
        let begin = self.rows.partition_point(before);
        let inside = |row: &RangeRow| range.to.as_ref().is_none_or(|to| row.id <= *to);
        let rows = &self.rows[begin..];
        &rows[..rows.partition_point(inside)]
    }

    /// Divides a range by the rows that lie in it.
    fn divide(&self, range: &Range) -> Vec<Range> {
        let rows = self.within(range);
        let size = rows.len().div_ceil(PARTS).max(LISTED_ROWS / 2);
        let mut parts = Vec::new();
        let mut after = range.after.clone();
        for part in rows.chunks(size) {
            let to = part.last().map(|row| row.id.clone());
            parts.push(Range { after: after.take(), to: to.clone() });
            after = to;
        }
        match parts.last_mut() {
            Some(last) => last.to.clone_from(&range.to),
            None => parts.push(range.clone()),
        }
        parts
    }
}

impl Comparer {
    /// Compares with the owner that this client asks.
    pub fn new(client: Arc<dyn OwnerClient>, entity: EntityName, overdue_after: Duration) -> Self {
        let (took, left_out) = (Duration::ZERO, HashSet::new());
        Self { client, entity, offers_digests: true, overdue_after, likely: false, took, left_out }
    }

    /// Compares a range from its beginning, as far as one answer of the owner goes.
    pub async fn compare(&mut self, ours: &Ours) -> Result<Compared, FetchError> {
        if !self.offers_digests {
            return self.compare_with_list(ours).await;
        }
        match self.compare_digests(ours).await {
            Err(error) if error.kind == FetchErrorKind::Misconfigured => {
                self.offers_digests = false;
                self.compare_with_list(ours).await
            }
            compared => compared,
        }
    }

    async fn compare_digests(&mut self, ours: &Ours) -> Result<Compared, FetchError> {
        let mut compared = Compared::default();
        // Usually nothing differs, and one digest says so.
        let asked = if self.likely { ours.divide(&ours.range) } else { vec![ours.range.clone()] };
        let answer = self.ask(asked.clone(), ours, false).await?;
        let Some(in_flight) = &answer.in_flight else { return Ok(compared) };
        compared.overdue = self.overdue(in_flight, ours);
        let not_here = in_flight.iter().filter(|one| ours.version_of(&one.id) != Some(one.version));
        compared.in_flight = Some(not_here.map(|one| one.id.clone()).collect());
        let Some(last) = answer.ranges.last() else { return Err(nothing()) };
        compared.range = Some(Range { after: ours.range.after.clone(), to: last.to.clone() });
        let (mut divide, mut list) = (VecDeque::new(), Vec::new());
        sort(&answer, &asked, ours, &mut divide, &mut list);
        while !divide.is_empty() {
            let asked: Vec<_> = divide.drain(..divide.len().min(MAX_RANGES)).collect();
            let answer = self.ask(asked.clone(), ours, false).await?;
            if answer.in_flight.is_none() {
                return Ok(Compared::default());
            }
            let left = left_over(&answer, &asked)?;
            sort(&answer, &asked, ours, &mut divide, &mut list);
            left.into_iter().rev().for_each(|range| divide.push_front(range));
        }
        list.sort_by(|a, b| a.after.cmp(&b.after));
        match self.list(&list, ours).await? {
            Some(differences) => compared.differences = differences,
            None => return Ok(Compared::default()),
        }
        compared.leaves = list;
        Ok(compared)
    }

    /// What differs in these ranges, entity by entity. `None` if too much is in flight.
    pub async fn list(
        &mut self,
        ranges: &[Range],
        ours: &Ours,
    ) -> Result<Option<Vec<Difference>>, FetchError> {
        if !self.offers_digests {
            let mut all = Vec::new();
            for range in ranges {
                let (rows, _) = self.items(range).await?;
                all.extend(differences(ours.within(range), &rows));
            }
            return Ok(Some(all));
        }
        let (mut left, mut all): (VecDeque<_>, _) = (ranges.iter().cloned().collect(), Vec::new());
        while !left.is_empty() {
            let asked: Vec<_> = left.drain(..left.len().min(MAX_RANGES)).collect();
            let answer = self.ask(asked.clone(), ours, true).await?;
            if answer.in_flight.is_none() {
                return Ok(None);
            }
            let again = left_over(&answer, &asked)?;
            let in_flight = answer.ids_in_flight();
            for (asked, answered) in asked.iter().zip(&answer.ranges) {
                let range = Range { after: asked.after.clone(), to: answered.to.clone() };
                let rows = without(&in_flight, ours.within(&range));
                let Some(theirs) = &answered.rows else { return Err(nothing()) };
                all.extend(differences(&rows, theirs));
            }
            again.into_iter().rev().for_each(|range| left.push_front(range));
        }
        Ok(Some(all))
    }

    /// Compares with one page of the owner's list, which does not say what is in flight.
    async fn compare_with_list(&mut self, ours: &Ours) -> Result<Compared, FetchError> {
        let (rows, range) = self.items(&ours.range).await?;
        let differences = differences(ours.within(&range), &rows);
        let leaves = if differences.is_empty() { Vec::new() } else { vec![range.clone()] };
        Ok(Compared { range: Some(range), leaves, differences, ..Compared::default() })
    }

    /// The owner's list in a range, as far as one page goes, and how far that is.
    async fn items(&mut self, range: &Range) -> Result<(Vec<RangeRow>, Range), FetchError> {
        let request = ItemsRequest { after: range.after.clone(), limit: Some(MAX_ITEMS_LIMIT) };
        let call = self.client.items(&self.entity, &request);
        let ItemsPage { items, next } = timed(&*self.client, &mut self.took, call).await?;
        let row = |item: ItemVersion| RangeRow {
            id: item.id,
            version: item.version,
            deleted: item.deleted,
        };
        let to = match (next, &range.to) {
            (Some(next), Some(to)) => Some(next.min(to.clone())),
            (next, to) => next.or_else(|| to.clone()),
        };
        if to.is_some() && to <= range.after {
            return Err(nothing());
        }
        let range = Range { after: range.after.clone(), to };
        let rows: Vec<_> = items.into_iter().map(row).filter(|row| range.holds(&row.id)).collect();
        match rows.is_sorted_by(|a, b| a.id < b.id) {
            true => Ok((rows, range)),
            false => Err(nothing()),
        }
    }

    /// Changes that have been in flight for long, and are not applied here.
    fn overdue(&self, in_flight: &[InFlight], ours: &Ours) -> Vec<Difference> {
        let late = in_flight.iter().filter(|one| one.seconds >= self.overdue_after.as_secs());
        let difference = |one: &InFlight| {
            let applied = ours.version_of(&one.id);
            let kind = applied.map_or(Kind::Missing, |_| Kind::Lagging);
            let (id, theirs) = (one.id.clone(), one.version);
            Difference { id, kind, ours: applied.unwrap_or_default(), theirs, removes: false }
        };
        late.map(difference).filter(|one| one.ours < one.theirs).collect()
    }

    async fn ask(
        &mut self,
        ranges: Vec<Range>,
        ours: &Ours,
        list: bool,
    ) -> Result<DigestAnswer, FetchError> {
        let request = DigestRequest { ranges, handled: ours.handled.clone(), list };
        let call = self.client.digest(&self.entity, &request);
        let answer = timed(&*self.client, &mut self.took, call).await;
        if let Ok(answer) = &answer {
            let in_flight = answer.in_flight.iter().flatten();
            self.left_out.extend(in_flight.map(|one| one.id.clone()));
        }
        answer
    }
}

/// The rows of this side without what is in flight.
fn without(in_flight: &HashSet<&EntityId>, rows: &[RangeRow]) -> Vec<RangeRow> {
    rows.iter().filter(|row| !in_flight.contains(&row.id)).cloned().collect()
}

/// Of the ranges that were answered and differ, those that are divided further, and those that are listed.
fn sort(
    answer: &DigestAnswer,
    asked: &[Range],
    ours: &Ours,
    divide: &mut VecDeque<Range>,
    list: &mut Vec<Range>,
) {
    let in_flight = answer.ids_in_flight();
    for (asked, answered) in asked.iter().zip(&answer.ranges) {
        let range = Range { after: asked.after.clone(), to: answered.to.clone() };
        let rows = without(&in_flight, ours.within(&range));
        if is_same(answered, &rows) {
            continue;
        }
        let parts = ours.divide(&range);
        match rows.len() <= LISTED_ROWS || parts.len() < 2 {
            true => list.push(range),
            false => divide.extend(parts),
        }
    }
}

fn is_same(answered: &RangeDigest, rows: &[RangeRow]) -> bool {
    answered.count == rows.len() as u64 && answered.digest.as_ref() == Some(&Digest::of(rows))
}

/// What an answer did not cover of what was asked.
fn left_over(answer: &DigestAnswer, asked: &[Range]) -> Result<Vec<Range>, FetchError> {
    let answered = answer.ranges.len();
    let (Some(last), Some(of)) = (answer.ranges.last(), asked.get(answered.wrapping_sub(1))) else {
        return Err(nothing());
    };
    let mut left = Vec::new();
    if last.to != of.to {
        // An answer that makes no progress would be asked for without end.
        if last.to.is_none() || last.to <= of.after {
            return Err(nothing());
        }
        left.push(Range { after: last.to.clone(), to: of.to.clone() });
    }
    left.extend_from_slice(&asked[answered..]);
    Ok(left)
}

fn nothing() -> FetchError {
    let message = "the answer does not contain what was asked for";
    FetchError::new(FetchErrorKind::Broken, message)
}
