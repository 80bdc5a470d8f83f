//! `/nudge/v1/tombstones/{entity}`: tombstones of ids that an owner has no record of. Of owners, not of subscribers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, Timestamp, Version};

/// Most ids in one [`NeverExisted`].
pub const MAX_NEVER_EXISTED_IDS: usize = 512;

/// A tombstone that an owner made because its stream told of the id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StrangerTombstone {
    /// Which id.
    pub id: EntityId,
    /// The tombstone's version.
    pub version: Version,
    /// When it was made.
    pub made_at: Timestamp,
}

/// `GET tombstones/{entity}`: those that no operator has looked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StrangerTombstones {
    /// The rows, in bytewise order of ids.
    pub items: Vec<StrangerTombstone>,
    /// Pass as `after` for the next page; null after the last row.
    #[schema(required)]
    pub next: Option<EntityId>,
}

/// `POST tombstones/{entity}/never-existed`: an operator's word that there never were entities of these ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NeverExisted {
    /// 1 to 512 ids of tombstones, whatever they were made for.
    #[schema(min_items = 1, max_items = 512)]
    pub ids: Vec<EntityId>,
}

/// What came of a [`NeverExisted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flagged {
    /// Those that are answered from now on as if nobody had heard of them.
    pub flagged: Vec<EntityId>,
    /// Those that are left as they are: they exist, or have no tombstone.
    pub no_tombstone: Vec<EntityId>,
}
