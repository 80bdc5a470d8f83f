//! How long each difference lasts, and how many comparisons there were: what consistency can be stated from.

use std::{collections::HashMap, time::Duration};

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
/// Most differences that are looked at again. Further ones count as if they lasted.
const MAX_OPEN: usize = 10_000;
/// How late a look may be. Of what has ended by then, nobody knows when, so it counts as if it had lasted until then.
const GRACE: Duration = Duration::from_secs(5);
/// How long an [`AuditDay`] lasts, in seconds.
const DAY_SECONDS: f64 = 24.0 * 3_600.0;

/// A difference that has not been seen to end.
#[derive(Debug)]
struct Open {
    /// The version here, when it was found.
    ours: Version,
    since: Instant,
    /// Index of the next age.
    next: usize,
    /// How many comparisons found it. Each is counted.
    found: u64,
    look_at: Instant,
}

/// The differences that are watched.
#[derive(Debug, Default)]
pub(super) struct Ages {
    open: HashMap<EntityId, Open>,
}

impl Ages {
    /// Watches what comparisons have confirmed.
    fn watch<'a>(&mut self, found: impl Iterator<Item = &'a Difference>, counts: &mut ByAge) {
        let now = Instant::now();
        for Difference { id, ours, .. } in found {
            counts.one_second += 1;
            let is_full = self.open.len() >= MAX_OPEN;
            match self.open.get_mut(id) {
                Some(open) if open.ours == *ours => {
                    open.found += 1;
                    (1..open.next).for_each(|age| count(counts, age, 1));
                }
                None if is_full => {
                    (1..AGES.len()).for_each(|age| count(counts, age, 1));
                }
                _ => {
                    let since = now - AGES[0];
                    let (ours, next, found, look_at) = (*ours, 1, 1, since + AGES[1]);
                    self.open.insert(id.clone(), Open { ours, since, next, found, look_at });
                }
            }
        }
    }

    /// Whether it is watched already.
    fn watches(&self, one: &Difference) -> bool {
        self.open.get(&one.id).is_some_and(|open| open.ours == one.ours)
    }

    fn due(&self) -> Vec<EntityId> {
        let now = Instant::now();
        self.open.iter().filter(|(_, open)| open.look_at <= now).map(|(id, _)| id.clone()).collect()
    }

    /// What is here of those that are due. Whatever has another version by now is repaired.
    fn look(&mut self, due: &[EntityId], here: &[RangeRow], counts: &mut ByAge) {
        for id in due {
            let Some(open) = self.open.get_mut(id) else { continue };
            let found = here.binary_search_by(|row| row.id.cmp(id));
            let has_ended = found.map_or(Version::NONE, |at| here[at].version) != open.ours;
            let grace = if has_ended { GRACE } else { Duration::ZERO };
            while AGES.get(open.next).is_some_and(|age| open.since.elapsed() >= *age + grace) {
                count(counts, open.next, open.found);
                open.next += 1;
            }
            open.look_at = match AGES.get(open.next) {
                Some(age) => open.since + *age,
                None => Instant::now() + AGES[AGES.len() - 1],
            };
            if has_ended {
                self.open.remove(id);
            }
        }
    }
}

fn count(counts: &mut ByAge, age: usize, by: u64) {
    *match age {
        1 => &mut counts.ten_seconds,
        2 => &mut counts.one_minute,
        _ => &mut counts.five_minutes,
    } += by;
}

impl Resync {
    /// Counts so many comparisons, and what they confirmed.
    pub(super) fn observe<'a>(
        &mut self,
        compared: u64,
        found: impl Iterator<Item = &'a Difference>,
    ) {
        let day = day(&mut self.status.audit, clock::now());
        day.compared += compared;
        self.ages.watch(found, &mut day.differed);
    }

    /// Counts what was found among the newest, unless it was known. Only comparing everything counts what is equal.
    pub(super) fn observe_new(&mut self, found: &[Difference]) {
        let new: Vec<_> = found.iter().filter(|one| !self.ages.watches(one)).collect();
        self.observe(new.len() as u64, new.into_iter());
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
        ages.watch(found.iter(), &mut counts);
        assert!(ages.due().is_empty());
        let is_watched = |one| ages.watches(&one);
        assert!(is_watched(difference("a", 1)) && !is_watched(difference("a", 2)));
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
        let expected = ByAge { one_second: 3, ten_seconds: 2, one_minute: 1, five_minutes: 1 };
        assert_eq!(counts, expected);
        assert_eq!(ages.open.len(), 1);
        // Each comparison that finds it counts.
        ages.watch([difference("c", 3)].iter(), &mut counts);
        let expected = ByAge { one_second: 4, ten_seconds: 3, one_minute: 2, five_minutes: 2 };
        assert_eq!(counts, expected);
        tokio::time::advance(Duration::from_secs(300)).await;
        let due = ages.due();
        ages.look(&due, &[row("c", 9)], &mut counts);
        assert_eq!(counts, expected);
        assert!(ages.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_unseen_counts_as_if_it_had_lasted() {
        let (mut ages, mut counts) = (Ages::default(), ByAge::default());
        ages.watch([difference("a", 1), difference("b", 1)].iter(), &mut counts);
        tokio::time::advance(Duration::from_secs(13)).await;
        ages.look(&[EntityId::new("a").unwrap()], &[row("a", 9)], &mut counts);
        let expected = ByAge { one_second: 2, ..ByAge::default() };
        assert_eq!(counts, expected);
        tokio::time::advance(Duration::from_secs(100)).await;
        ages.look(&ages.due(), &[row("b", 9)], &mut counts);
        let expected = ByAge { one_second: 2, ten_seconds: 1, one_minute: 1, five_minutes: 0 };
        assert_eq!(counts, expected);
        // What there is no room for, too.
        let many: Vec<_> = (0..=MAX_OPEN).map(|n| difference(&n.to_string(), 1)).collect();
        let mut counts = ByAge::default();
        ages.watch(many.iter(), &mut counts);
        assert_eq!((counts.one_second, counts.five_minutes), (MAX_OPEN as u64 + 1, 1));
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
