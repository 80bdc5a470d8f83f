//! How long each difference lasts, and how many comparisons there were: what consistency can be stated from.

use std::time::Duration;

use nudge_protocol::{
    EntityId, Timestamp, Version,
    admin::{AuditDay, AuditStatus, ByAge},
    digest::RangeRow,
};
use nudge_runtime::{BoxError, clock};
use tokio::time::Instant;

use super::{Difference, Resync};

/// When a difference is looked at again: the ages by which it is counted.
const AGES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// Most differences that are looked at again. Further ones are counted as confirmed, and not watched.
const MAX_OPEN: usize = 10_000;
/// How long an [`AuditDay`] lasts, in seconds.
const DAY_SECONDS: f64 = 24.0 * 3_600.0;

/// A difference that has not been seen to end.
#[derive(Debug)]
struct Open {
    id: EntityId,
    /// The version here, when it was found.
    ours: Version,
    since: Instant,
    /// Index of the next age.
    next: usize,
}

/// The differences that are watched.
#[derive(Debug, Default)]
pub(super) struct Ages {
    open: Vec<Open>,
}

impl Ages {
    /// Watches confirmed differences.
    pub(super) fn watch<'a>(&mut self, found: impl Iterator<Item = &'a Difference>) {
        let room = MAX_OPEN.saturating_sub(self.open.len());
        let since = Instant::now() - AGES[0];
        let open = |one: &Difference| Open { id: one.id.clone(), ours: one.ours, since, next: 1 };
        let is_new = |one: &&Difference| !self.open.iter().any(|open| open.id == one.id);
        let new: Vec<_> = found.filter(is_new).take(room).map(open).collect();
        self.open.extend(new);
    }

    fn due(&self) -> Vec<EntityId> {
        let is_due = |open: &&Open| open.since.elapsed() >= AGES[open.next];
        self.open.iter().filter(is_due).map(|open| open.id.clone()).collect()
    }

    /// What is here of those that are due. Whatever has another version by now is repaired.
    fn look(&mut self, due: &[EntityId], here: &[RangeRow], counts: &mut ByAge) {
        self.open.retain_mut(|open| {
            if !due.contains(&open.id) {
                return true;
            }
            let found = here.binary_search_by(|row| row.id.cmp(&open.id));
            if found.map_or(Version::NONE, |at| here[at].version) != open.ours {
                return false;
            }
            *match open.next {
                1 => &mut counts.ten_seconds,
                2 => &mut counts.one_minute,
                _ => &mut counts.five_minutes,
            } += 1;
            open.next += 1;
            open.next < AGES.len()
        });
    }
}

impl Resync {
    /// Counts comparisons and what they confirmed.
    pub(super) fn count(&mut self, compared: u64, differed: u64) {
        let day = day(&mut self.status.audit, clock::now());
        day.compared += compared;
        day.differed.one_second += differed;
    }

    /// Looks again at differences that are old enough.
    pub(super) async fn look_again(&mut self) -> Result<(), BoxError> {
        let due = self.ages.due();
        if !due.is_empty() {
            let here = self.rows.those(due.iter()).await?;
            let day = day(&mut self.status.audit, clock::now());
            self.ages.look(&due, &here, &mut day.differed);
        }
        self.status.audit.open = self.ages.open.len() as u64;
        Ok(())
    }
}

/// The day that this moment belongs to.
fn day(audit: &mut AuditStatus, now: Timestamp) -> &mut AuditDay {
    let is_over = |day: &AuditDay| {
        let age = now.seconds_since(day.began_at);
        !(0.0..DAY_SECONDS).contains(&age)
    };
    if audit.current.as_ref().is_some_and(is_over) {
        audit.last = audit.current.take().map(|day| AuditDay { ended_at: Some(now), ..day });
    }
    let begin =
        || AuditDay { began_at: now, ended_at: None, compared: 0, differed: ByAge::default() };
    audit.current.get_or_insert_with(begin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resync::difference::Kind;

    fn difference(id: &str, ours: u64) -> Difference {
        let (id, ours) = (EntityId::new(id).unwrap(), Version::new(ours).unwrap());
        Difference {
            id,
            kind: Kind::Lagging,
            ours,
            theirs: Version::new(9).unwrap(),
            removes: false,
        }
    }

    fn row(id: &str, version: u64) -> RangeRow {
        let (id, version) = (EntityId::new(id).unwrap(), Version::new(version).unwrap());
        RangeRow { id, version, deleted: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_difference_is_counted_by_each_age_that_it_reaches_until_it_ends() {
        let (mut ages, mut counts) = (Ages::default(), ByAge::default());
        let found = [difference("a", 1), difference("b", 2), difference("c", 3)];
        ages.watch(found.iter());
        ages.watch(found.iter());
        assert!(ages.due().is_empty());
        // One is repaired within ten seconds, one within a minute, and one never.
        let here = [
            vec![row("a", 9), row("b", 2), row("c", 3)],
            vec![row("b", 9), row("c", 3)],
            vec![row("c", 3)],
        ];
        for (seconds, here) in [9, 50, 240].into_iter().zip(here) {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let due = ages.due();
            ages.look(&due, &here, &mut counts);
        }
        let expected = ByAge { one_second: 0, ten_seconds: 2, one_minute: 1, five_minutes: 1 };
        assert_eq!(counts, expected);
        assert!(ages.open.is_empty());
    }

    #[test]
    fn a_day_ends_and_the_one_before_is_kept() {
        let mut audit = AuditStatus::default();
        let at = |hours: i64| Timestamp::from_unix_micros(hours * 3_600_000_000);
        day(&mut audit, at(1)).compared = 7;
        day(&mut audit, at(20)).compared += 1;
        assert_eq!(day(&mut audit, at(26)).compared, 0);
        let last = audit.last.clone().unwrap();
        assert_eq!((last.compared, last.ended_at), (8, Some(at(26))));
        // A clock that was put back does not keep a day open for ever.
        day(&mut audit, at(2)).compared = 1;
        assert_eq!(audit.current.unwrap().began_at, at(2));
    }
}
