//! The owner's sync API: the HTTP side that every callback uses, under `/sync/v1/{entity}`.
//!
//! An owner in any language offers these calls. States travel as raw JSON: the kit hands them to
//! the service's own type, and nothing in between interprets them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{EntityId, Timestamp, Version};

/// Most ids in one [`BatchGetRequest`].
pub const MAX_BATCH_IDS: usize = 512;
/// Most rows in one [`ItemsPage`].
pub const MAX_ITEMS_LIMIT: usize = 1_000;
/// Rows in an [`ItemsPage`] when no limit is given.
pub const DEFAULT_ITEMS_LIMIT: usize = 500;
/// Most field names in one [`BatchGetRequest`].
pub const MAX_FIELDS: usize = 64;

/// `POST /sync/v1/{entity}/batch-get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchGetRequest {
    /// 1 to [`MAX_BATCH_IDS`] ids.
    pub ids: Vec<EntityId>,
    /// Top-level fields of the state to answer with; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
}

impl BatchGetRequest {
    /// Asks for these ids, and for these fields of their states; no field named means all.
    pub fn new(ids: &[EntityId], fields: &[&str]) -> Self {
        let fields: Vec<_> = fields.iter().map(|&field| field.to_owned()).collect();
        Self { ids: ids.to_vec(), fields: Some(fields).filter(|fields| !fields.is_empty()) }
    }
}

/// What an owner knows of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// It exists; `version` and `state` are present.
    Live,
    /// It was deleted; `version` is the tombstone's.
    Deleted,
    /// The owner has never heard of it. That is not a delete: it may be a stale replica.
    Unknown,
}

/// One entity in a [`BatchGetAnswer`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Which entity.
    pub id: EntityId,
    /// What the owner knows of it.
    pub status: ItemStatus,
    /// The version of this state or tombstone; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// When the owner committed this version; absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
    /// The state, when live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<RawValue>>,
}

/// The answer to a [`BatchGetRequest`]: one snapshot. It may hold fewer entities than asked (the
/// caller asks again for the rest), but never none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchGetAnswer {
    /// The entities, in no particular order.
    pub items: Vec<Item>,
}

/// `POST /sync/v1/{entity}/items`: walk every entity in the order of ids, tombstones included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemsRequest {
    /// Begin after this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<EntityId>,
    /// Rows wanted, 1 to [`MAX_ITEMS_LIMIT`]; [`DEFAULT_ITEMS_LIMIT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// One row of an [`ItemsPage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemVersion {
    /// Which entity.
    pub id: EntityId,
    /// Its newest version.
    pub version: Version,
    /// Whether that version is a tombstone.
    pub deleted: bool,
    /// When the owner committed it.
    pub changed_at: Timestamp,
}

/// The answer to an [`ItemsRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemsPage {
    /// The rows, in bytewise order of ids.
    pub items: Vec<ItemVersion>,
    /// Pass as `after` for the next page; absent after the last row.
    pub next: Option<EntityId>,
}

/// `GET /sync/v1/{entity}/{id}`, 200.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LiveEntity {
    /// Which entity.
    pub id: EntityId,
    /// Its version.
    pub version: Version,
    /// When the owner committed it.
    pub changed_at: Timestamp,
    /// Its state.
    pub state: Box<RawValue>,
}

/// `GET /sync/v1/{entity}/{id}`, 410.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedEntity {
    /// Which entity.
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
    fn a_request_with_a_misspelt_field_is_refused_rather_than_misread() {
        assert!(
            serde_json::from_str::<BatchGetRequest>(r#"{"ids":["1"],"field":["name"]}"#).is_err()
        );
    }
}
