//! Digests of ranges of entities: how a subscriber finds out, at little cost, whether it has the versions that its
//! owner has. Three calls of the sync API, `digest`, `recent` and `renew`, all optional for an owner: a subscriber of an owner that
//! does not offer them reads [`items`](crate::sync_api::ItemsRequest) instead.
//!
//! A range is the entities whose IDs lie between two IDs, in bytewise order. Its digest is the first 16 bytes of the
//! SHA-256 of one line for each entity: `LENGTH:ID VERSION DELETED`, with the ID's length in bytes, 0 or 1 for
//! `DELETED`, and a line feed at the end.

mod set;

use std::{collections::HashSet, fmt::Write};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

pub use self::set::SetDigest;
use crate::{EntityId, Version, object};

/// Most ranges in one [`DigestRequest`].
pub const MAX_RANGES: usize = 256;
/// Most rows that an owner reads for one [`DigestRequest`]. Its answer then ends before the last range does.
pub const MAX_DIGEST_ROWS: usize = 65_536;
/// Most rows that an answer lists.
pub const MAX_LISTED_ROWS: usize = 10_000;
/// Most entities that an answer names as in flight. If there are more, it says nothing else.
pub const MAX_IN_FLIGHT: usize = 10_000;
/// Most entities in one [`RecentAnswer`].
pub const MAX_RECENT: usize = 1_000;
/// Most entities in one [`RenewRequest`].
pub const MAX_RENEWED: usize = 512;

/// The digest of a range, 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(description = "The digest of a range.", pattern = "^[0-9a-f]{32}$")]
pub struct Digest(String);

impl Digest {
    /// The digest of these entities, which must be in bytewise order of their IDs.
    ///
    /// ```
    /// use nudge_protocol::{EntityId, Version, digest::{Digest, RangeRow}};
    /// let row = RangeRow { id: EntityId::new("42")?, version: Version::new(7)?, deleted: false };
    /// // printf '2:42 7 0\n' | sha256sum
    /// assert_eq!(Digest::of([&row]).as_str(), "638a3b9fa0293c1326658b5362429c70");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a RangeRow>) -> Self {
        let (mut hash, mut line) = (Sha256::new(), String::new());
        for row in rows {
            line.clear();
            write_line(&mut line, row);
            hash.update(&line);
        }
        let mut text = String::with_capacity(32);
        for byte in &hash.finalize()[..16] {
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The line of an entity.
fn write_line(line: &mut String, row: &RangeRow) {
    let (id, deleted) = (row.id.as_str(), u8::from(row.deleted));
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{}:{id} {} {deleted}", id.len(), row.version);
}

/// The entities whose IDs come after `after`, up to and including `to`, in bytewise order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdRange)]
pub struct Range {
    /// The ID before the first; absent or null for a range from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<EntityId>,
    /// The last ID; absent or null for a range to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<EntityId>,
}

impl Range {
    /// Whether this ID lies in the range.
    pub fn holds(&self, id: &EntityId) -> bool {
        self.after.as_ref().is_none_or(|after| id > after)
            && self.to.as_ref().is_none_or(|to| id <= to)
    }
}

/// How far a subscriber has handled the stream of notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Handled {
    /// When the stream was created, as the broker says it: tells one stream from another.
    pub stream_created: String,
    /// The sequence up to which every message is handled.
    #[serde(deserialize_with = "sequence")]
    pub seq: u64,
}

/// A sequence as databases store it: below 2^63.
fn sequence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let seq = u64::deserialize(deserializer)?;
    let stored = i64::try_from(seq).map(|_| seq);
    stored.map_err(|_| D::Error::custom("a sequence must be a whole number below 2^63"))
}

/// `POST /sync/v1/{entity}/digest`: what the owner has in these ranges.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DigestRequest {
    /// 1 to 256 ranges.
    #[serde(deserialize_with = "object::list")]
    #[schema(min_items = 1, max_items = 256)]
    pub ranges: Vec<Range>,
    /// How far the subscriber has handled the stream. Read before its rows are: what the owner has changed since is in
    /// flight, and is left out of the digests.
    pub handled: Handled,
    /// Whether to list the entities of each range instead of their digest.
    #[serde(default)]
    pub list: bool,
}

impl DigestRequest {
    /// Whether it asks for as many ranges as it may.
    pub fn is_valid(&self) -> bool {
        (1..=MAX_RANGES).contains(&self.ranges.len())
    }
}

/// An entity and its version, as one side has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RangeRow {
    /// The entity's ID.
    pub id: EntityId,
    /// Its newest version.
    pub version: Version,
    /// Whether that version is a tombstone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// What the owner has in one range, without what is in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RangeDigest {
    /// The last ID that was looked at; null at the end of all. Before the requested one if the range holds more rows
    /// than an answer may cover; there are no further ranges in the answer then.
    #[schema(required)]
    pub to: Option<EntityId>,
    /// Number of entities.
    pub count: u64,
    /// Their digest; absent if they are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub digest: Option<Digest>,
    /// The entities in order of their IDs, if the request asked for a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rows: Option<Vec<RangeRow>>,
}

/// An entity with a change that the subscriber may not have heard of yet: the change is not published, or was
/// published beyond what the subscriber has handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InFlight {
    /// The entity's ID.
    pub id: EntityId,
    /// Its newest version.
    pub version: Version,
    /// Time since that version was recorded, in whole seconds, by the owner's clock.
    pub seconds: u64,
}

/// The answer to a [`DigestRequest`]: one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DigestAnswer {
    /// One for each range, in the same order; fewer if they hold more rows than one answer may cover, but never none
    /// unless too much is in flight. Ask again for the rest.
    #[serde(deserialize_with = "object::list")]
    pub ranges: Vec<RangeDigest>,
    /// What is in flight in the ranges; null if that is more than an answer may name, or if the owner publishes to
    /// another stream than the one the subscriber has handled. Then there is nothing to compare yet.
    #[schema(required)]
    pub in_flight: Option<Vec<InFlight>>,
}

impl DigestAnswer {
    /// The IDs that are in flight.
    pub fn ids_in_flight(&self) -> HashSet<&EntityId> {
        self.in_flight.iter().flatten().map(|one| &one.id).collect()
    }
}

/// `POST /sync/v1/{entity}/recent`: what was published last, up to what the subscriber has handled. It must have all
/// of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecentRequest {
    /// How far the subscriber has handled the stream.
    pub handled: Handled,
}

/// The answer to a [`RecentRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecentAnswer {
    /// At most 1,000 entities, in order of their IDs, without those that have changed since; null if the owner
    /// publishes to another stream than the one the subscriber has handled.
    #[schema(required)]
    pub rows: Option<Vec<RangeRow>>,
}

/// `POST /sync/v1/{entity}/renew`: entities of which the subscriber has a version that is not older than the
/// owner's, although it differs: the owner was restored from a backup, or somebody edited the read model. The owner
/// gives each a fresh version, so that every copy returns to what the owner has. An entity that it does not know at
/// all gets a tombstone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// 1 to 512 entities, with the versions that the subscriber has.
    #[serde(deserialize_with = "object::list")]
    #[schema(min_items = 1, max_items = 512)]
    pub items: Vec<Held>,
}

/// A version that a subscriber has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HeldVersion)]
pub struct Held {
    /// The entity's ID.
    pub id: EntityId,
    /// The version that the subscriber has.
    pub version: Version,
}

/// The answer to a [`RenewRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Renewed {
    /// Entities that got a fresh version, including new tombstones.
    pub renewed: u64,
    /// Entities left out for now: locked by a writer, or unknown to the owner, which makes only so many tombstones at
    /// a time. Ask again.
    pub left: u64,
    /// How many of the last entities of the request were not looked at, because they exceed what the owner gives at a time.
    /// Ask again for them. Fewer than all; 0 from an owner without a budget.
    #[serde(default, skip_serializing_if = "is_none")]
    #[schema(required = false)]
    pub unanswered: u64,
}

fn is_none(entities: &u64) -> bool {
    *entities == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> EntityId {
        EntityId::new(id).unwrap()
    }

    fn row(id_: &str, version: u64, deleted: bool) -> RangeRow {
        RangeRow { id: id(id_), version: Version::new(version).unwrap(), deleted }
    }

    #[test]
    fn a_digest_tells_apart_whatever_differs() {
        let sets = [
            vec![],
            vec![row("a", 1, false)],
            vec![row("a", 1, true)],
            vec![row("a", 2, false)],
            vec![row("b", 1, false)],
            vec![row("a", 1, false), row("b", 1, false)],
            vec![row("a 1 0", 1, false)],
            vec![row("가", 1, false)],
        ];
        let digests: HashSet<_> = sets.iter().map(|set| Digest::of(set).0).collect();
        assert_eq!(digests.len(), sets.len());
        assert!(digests.iter().all(|digest| digest.len() == 32));
    }

    #[test]
    fn a_request_asks_for_a_bounded_number_of_ranges_from_a_sequence_that_can_be_stored() {
        let request = |ranges: usize, seq: u64| {
            let ranges = vec!["{}"; ranges].join(",");
            let handled = format!(r#"{{"stream_created":"then","seq":{seq}}}"#);
            let request = format!(r#"{{"ranges":[{ranges}],"handled":{handled}}}"#);
            serde_json::from_str::<DigestRequest>(&request).map(|request| request.is_valid())
        };
        let most = i64::MAX.unsigned_abs();
        for (ranges, valid) in [(0, false), (1, true), (MAX_RANGES, true), (MAX_RANGES + 1, false)]
        {
            assert_eq!(request(ranges, most).unwrap(), valid, "{ranges}");
        }
        assert!(request(1, most + 1).is_err());
    }

    #[test]
    fn a_range_holds_its_last_id_and_not_the_one_before_its_first() {
        let range = Range { after: Some(id("a")), to: Some(id("c")) };
        let held: Vec<_> = ["a", "b", "c", "d"].map(|i| range.holds(&id(i))).into();
        assert_eq!(held, [false, true, true, false]);
        assert!(Range::default().holds(&id("x")));
    }
}
