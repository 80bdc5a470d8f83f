//! `/nudge/v1/tombstones/{entity}`: tombstones of IDs that an owner has no record of. Served by owners, not by subscribers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, Timestamp, Version};

/// Most IDs in one [`NeverExisted`].
pub const MAX_NEVER_EXISTED_IDS: usize = 512;

/// A tombstone that an owner made because its stream holds the ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StrangerTombstone {
    /// The ID.
    pub id: EntityId,
    /// The tombstone's version.
    pub version: Version,
    /// When it was made.
    pub made_at: Timestamp,
}

/// `GET tombstones/{entity}`: those that no operator has flagged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StrangerTombstones {
    /// The rows, in bytewise order of IDs.
    pub items: Vec<StrangerTombstone>,
    /// Pass as `after` for the next page; null after the last row.
    #[schema(required)]
    pub next: Option<EntityId>,
}

/// `POST tombstones/{entity}/never-existed`: an operator's declaration that entities with these IDs never existed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NeverExisted {
    /// 1 to 512 IDs of tombstones, whatever made them.
    #[schema(min_items = 1, max_items = 512)]
    pub ids: Vec<EntityId>,
}

/// The result of a [`NeverExisted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flagged {
    /// IDs that count as never existed from now on.
    pub flagged: Vec<EntityId>,
    /// IDs that are unchanged: they exist, or have no tombstone.
    pub no_tombstone: Vec<EntityId>,
}
