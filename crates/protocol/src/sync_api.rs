//! The owner's sync API: the HTTP side that every callback uses, under `/sync/v1/{entity}`.
//!
//! An owner in any language offers these calls. States travel as raw JSON: the kit passes them to
//! the service's own type, and nothing in between interprets them.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{EntityId, Timestamp, Version, object, subject::ENCODED};

/// Most IDs in one [`BatchGetRequest`].
pub const MAX_BATCH_IDS: usize = 512;
/// Most rows in one [`ItemsPage`].
pub const MAX_ITEMS_LIMIT: usize = 1_000;
/// Rows in an [`ItemsPage`] if no limit is given.
pub const DEFAULT_ITEMS_LIMIT: usize = 500;
/// Most field names in one [`BatchGetRequest`].
pub const MAX_FIELDS: usize = 64;

/// The header in which a subscriber names itself: see [`subscriber_name`].
pub const SUBSCRIBER_HEADER: &str = "nudge-subscriber";
/// Longest value of [`SUBSCRIBER_HEADER`], in bytes.
pub const MAX_SUBSCRIBER_BYTES: usize = 100;
/// The header that says what a callback is for: a [`Lane`]. Without it, or with a word that an owner does not know, it is for
/// backlog.
pub const LANE_HEADER: &str = "nudge-lane";

/// What a callback is for. It decides nothing but the order in which an owner serves callbacks when it has a budget for
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A notification that was just published.
    Fresh,
    /// Catch-up, retries, replays, resync.
    Backlog,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fresh, Self::Backlog];

    /// As [`LANE_HEADER`] has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Backlog => "backlog",
        }
    }
}

/// The header of an answer that says how long the owner let the request wait for its turn, as in `turn;dur=1500.0`
/// (milliseconds). What is left of the time that it took is the owner's work. In a refusal it says that the owner gives turns:
/// this request has none, and others of the same subscriber that wait there keep theirs.
pub const WAITED_HEADER: &str = "server-timing";

/// The value of [`WAITED_HEADER`].
pub fn waited_value(waited: Duration) -> String {
    format!("turn;dur={:.1}", waited.as_secs_f64() * 1e3)
}

/// How long a request waited for its turn, if this value of [`WAITED_HEADER`] says so. Proxies may add entries of their own.
///
/// ```
/// use std::time::Duration;
/// use nudge_protocol::sync_api::waited;
/// assert_eq!(waited("cache;desc=miss, turn;dur=1500.0"), Some(Duration::from_millis(1_500)));
/// assert_eq!(waited("db;dur=53"), None);
/// ```
pub fn waited(value: &str) -> Option<Duration> {
    let entry = value.split(',').find_map(|entry| entry.trim().strip_prefix("turn;"))?;
    let milliseconds = entry.split(';').find_map(|part| part.trim().strip_prefix("dur="))?;
    Duration::try_from_secs_f64(milliseconds.trim_matches('"').parse::<f64>().ok()? / 1e3).ok()
}

/// A service's name as [`SUBSCRIBER_HEADER`] has it: percent-encoded, and cut after [`MAX_SUBSCRIBER_BYTES`].
///
/// ```
/// use nudge_protocol::sync_api::{is_subscriber_name, subscriber_name};
/// assert_eq!(subscriber_name("my search"), "my%20search");
/// assert!(is_subscriber_name("my%20search") && !is_subscriber_name("my search"));
/// ```
pub fn subscriber_name(service: &str) -> String {
    let mut name = utf8_percent_encode(service, ENCODED).to_string();
    name.truncate(MAX_SUBSCRIBER_BYTES);
    name
}

/// Whether this is a good value of [`SUBSCRIBER_HEADER`]: 1 to 100 of the characters `A-Z a-z 0-9 . _ ~ % -`.
pub fn is_subscriber_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~%-".contains(&byte);
    (1..=MAX_SUBSCRIBER_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

/// `POST /sync/v1/{entity}/batch-get`: which entities, and which fields.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchGetRequest {
    /// 1 to 512 IDs.
    #[schema(min_items = 1, max_items = 512)]
    pub ids: Vec<EntityId>,
    /// Top-level fields of the state to return; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub fields: Option<Vec<String>>,
}

/// Why a [`BatchGetRequest`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatchGet {
    /// It asks for none, or for too many.
    #[error("must contain 1 to {MAX_BATCH_IDS} IDs")]
    Ids,
    /// It names too many fields.
    #[error("must hold at most {MAX_FIELDS} names")]
    Fields,
}

impl InvalidBatchGet {
    /// The name of the wrong field.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Ids => "ids",
            Self::Fields => "fields",
        }
    }
}

impl BatchGetRequest {
    /// Checks the request, before anything is looked up.
    pub fn check(&self) -> Result<(), InvalidBatchGet> {
        if !(1..=MAX_BATCH_IDS).contains(&self.ids.len()) {
            return Err(InvalidBatchGet::Ids);
        }
        match &self.fields {
            Some(fields) if fields.len() > MAX_FIELDS => Err(InvalidBatchGet::Fields),
            _ => Ok(()),
        }
    }

    /// Asks for these IDs, and for these fields of their states; no fields means all.
    pub fn new(ids: &[EntityId], fields: &[&str]) -> Self {
        let fields: Vec<_> = fields.iter().map(|&field| field.to_owned()).collect();
        Self { ids: ids.to_vec(), fields: Some(fields).filter(|fields| !fields.is_empty()) }
    }
}

/// What an owner knows about one ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// It exists; `version` and `state` are present.
    Live,
    /// It was deleted; `version` is the tombstone's.
    Deleted,
    /// The owner does not know it. That is not a deletion: it may be a stale replica.
    Unknown,
}

impl<'de> Deserialize<'de> for ItemStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = [("live", Self::Live), ("deleted", Self::Deleted), ("unknown", Self::Unknown)];
        object::word(deserializer, &words)
    }
}

/// What is known about one ID.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchItem)]
pub struct Item {
    /// The entity's ID.
    pub id: EntityId,
    /// What the owner knows about it.
    pub status: ItemStatus,
    /// The version of this state or tombstone; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<Version>,
    /// When the owner committed this version; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub changed_at: Option<Timestamp>,
    /// The state, or the requested fields of it, if live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub state: Option<Box<RawValue>>,
}

/// The answer to a batch-get: one snapshot. It may hold fewer entities than requested (the caller asks again
/// for the rest), but never none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchGetAnswer {
    /// The entities, in no particular order.
    #[serde(deserialize_with = "object::list")]
    pub items: Vec<Item>,
}

/// `POST /sync/v1/{entity}/items`: lists every entity in ID order, including tombstones.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemsRequest {
    /// Start after this ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<EntityId>,
    /// Maximum number of rows, 1 to 1,000; 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000, default = 500)]
    pub limit: Option<usize>,
}

/// The newest version of one entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemVersion {
    /// The entity's ID.
    pub id: EntityId,
    /// Its newest version.
    pub version: Version,
    /// Whether that version is a tombstone.
    pub deleted: bool,
    /// When the owner committed it.
    pub changed_at: Timestamp,
}

/// A page of versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemsPage {
    /// The rows, in bytewise order of IDs.
    #[serde(deserialize_with = "object::list")]
    pub items: Vec<ItemVersion>,
    /// Pass as `after` for the next page; null after the last row.
    #[schema(required)]
    pub next: Option<EntityId>,
}

/// `GET /sync/v1/{entity}/{id}`, 200: an entity that exists.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LiveEntity {
    /// The entity's ID.
    pub id: EntityId,
    /// Its version.
    pub version: Version,
    /// When the owner committed it.
    pub changed_at: Timestamp,
    /// Its state.
    #[schema(value_type = State)]
    pub state: Box<RawValue>,
}

/// A state in OpenAPI documents: any object, unless the owner's own document defines more under this name.
#[derive(Debug, ToSchema)]
#[schema(value_type = Object, description = "An entity's state, as its owner returns it.")]
pub struct State(());

/// `GET /sync/v1/{entity}/{id}`, 410: an entity that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedEntity {
    /// The entity's ID.
    pub id: EntityId,
    /// The tombstone's version.
    pub version: Version,
    /// Always true.
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_may_answer_with_fields_that_this_version_does_not_know() {
        let answer = r#"{"items":[{"id":"1","status":"live","version":7,"state":{"a":1},"new":true}],"x":1}"#;
        let answer: BatchGetAnswer = serde_json::from_str(answer).unwrap();
        assert_eq!(answer.items[0].state.as_ref().unwrap().get(), r#"{"a":1}"#);
    }

    #[test]
    fn an_item_is_an_object_and_its_status_a_word() {
        let read = |json: &str| serde_json::from_str::<BatchGetAnswer>(json).map(|a| a.items.len());
        assert_eq!(read(r#"{"items":[{"id":"1","status":"unknown"}]}"#).unwrap(), 1);
        assert!(read(r#"{"items":[["1","unknown",null,null,null]]}"#).is_err());
        assert!(read(r#"{"items":[{"id":"1","status":{"unknown":null}}]}"#).is_err());
    }

    #[test]
    fn a_request_with_a_misspelt_field_is_refused_rather_than_misread() {
        assert!(
            serde_json::from_str::<BatchGetRequest>(r#"{"ids":["1"],"field":["name"]}"#).is_err()
        );
    }
}
