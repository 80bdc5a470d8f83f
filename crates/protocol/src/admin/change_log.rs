//! `POST /sync/v1/{entity}/change-log`: what an owner's change log and its stream hold of single entities. An
//! owner need not offer it: no subscriber depends on it, only people and tools ask.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, Timestamp, Version};

/// Most IDs in one [`ChangeLogRequest`].
pub const MAX_CHANGE_LOG_IDS: usize = 256;

/// Which entities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeLogRequest {
    /// 1 to 256 IDs.
    #[schema(min_items = 1, max_items = 256)]
    pub ids: Vec<EntityId>,
}

/// What the owner and its stream hold of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeLogAnswer {
    /// One for each ID that was asked for, in that order.
    pub items: Vec<ChangeLogItem>,
    /// The stream; null if the broker did not answer in time, or cannot look entities up. Every `message` is
    /// null then.
    #[serde(default)]
    #[schema(required)]
    pub stream: Option<StreamEnd>,
}

/// What the owner and its stream hold of one entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeLogItem {
    /// The entity's ID.
    pub id: EntityId,
    /// Its row in the change log; null if the owner has never heard of it.
    #[serde(default)]
    #[schema(required)]
    pub recorded: Option<RecordedVersion>,
    /// The notification that stands in the stream; null if there is none.
    #[serde(default)]
    #[schema(required)]
    pub message: Option<StreamMessage>,
}

/// The row of one entity in the change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordedVersion {
    /// The newest version.
    pub version: Version,
    /// Whether that is a tombstone.
    #[serde(default)]
    #[schema(required)]
    pub deleted: bool,
    /// When it was committed.
    pub changed_at: Timestamp,
    /// Whether it is still to be published.
    #[serde(default)]
    #[schema(required)]
    pub pending: bool,
    /// The version that was last published, as far as the owner knows; null if none was.
    #[serde(default)]
    #[schema(required)]
    pub published_version: Option<Version>,
    /// The stream sequence of that; null if none was.
    #[serde(default)]
    #[schema(required)]
    pub sequence: Option<u64>,
    /// A tombstone of an ID that the owner never had, as far as it knows: the stream held it, or an operator
    /// said so.
    #[serde(default)]
    #[schema(required)]
    pub never_existed: bool,
}

/// A notification in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamMessage {
    /// Its sequence.
    pub sequence: u64,
    /// The version that it names; null if it names none.
    #[serde(default)]
    #[schema(required)]
    pub version: Option<Version>,
    /// When the broker stored it; null if the broker did not say.
    #[serde(default)]
    #[schema(required)]
    pub published_at: Option<Timestamp>,
}

/// The end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamEnd {
    /// The last sequence.
    pub last_sequence: u64,
}
