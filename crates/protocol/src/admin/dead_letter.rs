//! `GET dead-letters`: keys that keep failing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, EntityName, Timestamp, Version};

/// A row of the dead-letter table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The kind of entity.
    pub entity: EntityName,
    /// The entity's ID.
    pub id: EntityId,
    /// The row closes when this version or a later one is applied.
    #[serde(default)]
    #[schema(required)]
    pub floor: Version,
    /// The last error.
    #[serde(default)]
    #[schema(required)]
    pub error: String,
    /// Failed runs.
    #[serde(default)]
    #[schema(required)]
    pub attempts: u32,
    /// When it first failed.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub first_failed_at: Option<Timestamp>,
    /// When it last failed.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub last_failed_at: Option<Timestamp>,
    /// When it is retried; null if only a replay, a later version or a restart retries it.
    #[serde(default)]
    #[schema(required)]
    pub next_at: Option<Timestamp>,
}

/// A page of them, ordered by entity, then by ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetters)]
pub struct DeadLetterPage {
    /// The rows.
    pub items: Vec<DeadLetter>,
    /// Where the next page begins; null on the last page.
    #[schema(required)]
    pub next: Option<NextDeadLetter>,
}

/// Where the next page begins: pass these as `entity` and `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextDeadLetter {
    /// The entity to continue with.
    pub entity: EntityName,
    /// The ID to continue after.
    pub after: EntityId,
}
