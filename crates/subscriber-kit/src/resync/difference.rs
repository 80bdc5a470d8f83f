//! What differs between two lists of versions. Pure.

use std::cmp::Ordering;

use nudge_protocol::{EntityId, Version, digest::RangeRow};

/// How an entity differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Only the owner has it.
    Missing,
    /// The owner has a newer version.
    Lagging,
    /// The owner has an older version: it was restored from a backup, or the row here was edited.
    Ahead,
    /// The same version, which is a tombstone on one side only.
    Stale,
    /// Only the subscriber has it.
    Ghost,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Missing, Self::Lagging, Self::Ahead, Self::Stale, Self::Ghost];

    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Lagging => "lagging",
            Self::Ahead => "ahead",
            Self::Stale => "stale",
            Self::Ghost => "ghost",
        }
    }
}

/// One entity that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entity.
    pub id: EntityId,
    /// How it differs.
    pub kind: Kind,
    /// The version here; [`Version::NONE`] if there is none.
    pub ours: Version,
    /// The owner's version; [`Version::NONE`] if there is none.
    pub theirs: Version,
    /// Whether it exists here, and no longer would.
    pub removes: bool,
}

/// What differs between what the subscriber has and what the owner has, both in bytewise order of IDs.
pub(crate) fn differences(ours: &[RangeRow], theirs: &[RangeRow]) -> Vec<Difference> {
    let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
    let mut all = Vec::new();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return all,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) => our.id.cmp(&their.id),
        };
        let our = (order != Ordering::Greater).then(|| ours.next()).flatten();
        let their = (order != Ordering::Less).then(|| theirs.next()).flatten();
        all.extend(difference(our, their));
    }
}

/// The difference between what both sides have of one entity.
fn difference(our: Option<&RangeRow>, their: Option<&RangeRow>) -> Option<Difference> {
    let id = our.or(their)?.id.clone();
    let version = |row: Option<&RangeRow>| row.map_or(Version::NONE, |row| row.version);
    let exists = |row: Option<&RangeRow>| row.is_some_and(|row| !row.deleted);
    let kind = match (our, their) {
        (None, _) => Kind::Missing,
        (_, None) => Kind::Ghost,
        (Some(our), Some(their)) => match our.version.cmp(&their.version) {
            Ordering::Less => Kind::Lagging,
            Ordering::Greater => Kind::Ahead,
            Ordering::Equal if our.deleted != their.deleted => Kind::Stale,
            Ordering::Equal => return None,
        },
    };
    let removes = exists(our) && !exists(their);
    Some(Difference { id, kind, ours: version(our), theirs: version(their), removes })
}

/// Those that were found twice, without a change here in between: whatever was on its way has arrived by then.
pub(crate) fn found_twice(first: Vec<Difference>, second: &[Difference]) -> Vec<Difference> {
    let again = |one: &Difference| {
        let found = second.binary_search_by(|other| other.id.cmp(&one.id));
        found.is_ok_and(|at| (second[at].kind, second[at].ours) == (one.kind, one.ours))
    };
    first.into_iter().filter(again).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, u64, bool)]) -> Vec<RangeRow> {
        let row = |(id, version, deleted): &(&str, u64, bool)| RangeRow {
            id: EntityId::new(id).unwrap(),
            version: Version::new(*version).unwrap(),
            deleted: *deleted,
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn each_kind_is_told_apart() {
        let ours = rows(&[
            ("ahead", 9, false),
            ("buried", 3, false),
            ("ghost", 7, false),
            ("lagging", 1, false),
            ("same", 5, true),
            ("stale", 5, false),
        ]);
        let theirs = rows(&[
            ("ahead", 8, false),
            ("buried", 4, true),
            ("lagging", 2, false),
            ("missing", 2, false),
            ("same", 5, true),
            ("stale", 5, true),
        ]);
        let found = differences(&ours, &theirs);
        let found: Vec<_> =
            found.iter().map(|one| (one.id.as_str(), one.kind, one.removes)).collect();
        let expected = [
            ("ahead", Kind::Ahead, false),
            ("buried", Kind::Lagging, true),
            ("ghost", Kind::Ghost, true),
            ("lagging", Kind::Lagging, false),
            ("missing", Kind::Missing, false),
            ("stale", Kind::Stale, true),
        ];
        assert_eq!(found, expected);
        assert!(differences(&ours, &ours).is_empty());
    }

    #[test]
    fn only_what_differs_in_the_same_way_a_second_time_is_a_difference() {
        let theirs = rows(&[("a", 2, false), ("b", 2, false), ("c", 2, false)]);
        let first = differences(&rows(&[("a", 1, false), ("b", 1, false)]), &theirs);
        // Meanwhile, a was applied, and c appeared in an older version.
        let ours = rows(&[("a", 2, false), ("b", 1, false), ("c", 1, false)]);
        let twice = found_twice(first, &differences(&ours, &theirs));
        assert_eq!(twice.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
