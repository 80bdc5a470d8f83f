//! What a subscriber reports about comparing itself with its owners.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Agreement, AuditStatus};
use crate::{EntityId, EntityName, Timestamp};

/// One comparison of everything that a subscriber and an owner have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sweep {
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended; null if it has not.
    #[serde(default)]
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Whether everything is also read from the owner and applied again, even if it does not differ.
    #[serde(default)]
    #[schema(required)]
    pub full: bool,
    /// The owner that it is compared with: its address.
    #[serde(default)]
    #[schema(required)]
    pub owner: String,
    /// The ID up to which everything is compared; null at the beginning, and after the end.
    #[serde(default)]
    #[schema(required)]
    pub after: Option<EntityId>,
    /// Entities that the subscriber has and that were compared, including tombstones.
    #[serde(default)]
    #[schema(required)]
    pub compared: u64,
    /// The differences found. Changes in flight are none.
    #[serde(default)]
    #[schema(required)]
    pub differences: Differences,
    /// Entities that differ and are parked or dead letters: they are retried as such, or wait for an operator.
    #[serde(default)]
    #[schema(required)]
    pub set_aside: u64,
    /// What was the same on both sides.
    #[serde(default)]
    #[schema(required)]
    pub agreed: Agreement,
    /// Entities that the owner does not have, or has deleted in an older version. They are only removed here if they
    /// are few, or an operator says so.
    #[serde(default)]
    #[schema(required)]
    pub removals: u64,
}

/// Numbers of entities that differed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Differences {
    /// Only the owner had them.
    #[serde(default)]
    #[schema(required)]
    pub missing: u64,
    /// The owner had a newer version.
    #[serde(default)]
    #[schema(required)]
    pub lagging: u64,
    /// The owner had an older version: it was restored from a backup, or the read model was edited.
    #[serde(default)]
    #[schema(required)]
    pub ahead: u64,
    /// The same version was a tombstone on one side only.
    #[serde(default)]
    #[schema(required)]
    pub stale: u64,
    /// Only the subscriber had them.
    #[serde(default)]
    #[schema(required)]
    pub ghosts: u64,
}

impl Differences {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.missing + self.lagging + self.ahead + self.stale + self.ghosts
    }
}

/// One pass over what a subscriber's own tables hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsPass {
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended; null if it has not.
    #[serde(default)]
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// The ID up to which everything is compared; null at the beginning, and after the end.
    #[serde(default)]
    #[schema(required)]
    pub after: Option<EntityId>,
    /// Entities compared, including tombstones. The newest are compared more often.
    #[serde(default)]
    #[schema(required)]
    pub compared: u64,
    /// Entities left out: a change of them was in flight, the owner could not answer for them, or they are parked or
    /// dead letters.
    #[serde(default)]
    #[schema(required)]
    pub left_out: u64,
    /// Entities whose rows were not what the service writes: they were written again.
    #[serde(default)]
    #[schema(required)]
    pub altered: u64,
    /// Rows of entities that were never applied.
    #[serde(default)]
    #[schema(required)]
    pub strays: u64,
}

/// How a subscriber compares what its own tables hold with the owner's states. Empty for a service that does not say
/// how to read them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentsStatus {
    /// The pass in progress; null between two.
    #[serde(default)]
    #[schema(required)]
    pub current: Option<ContentsPass>,
    /// The last complete pass.
    #[serde(default)]
    #[schema(required)]
    pub last: Option<ContentsPass>,
    /// Why nothing can be compared at the moment; null if it can.
    #[serde(default)]
    #[schema(required)]
    pub waits_for: Option<String>,
}

/// How a subscriber compares itself with the owner of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResyncStatus {
    /// The comparison in progress; null between two.
    #[serde(default)]
    #[schema(required)]
    pub current: Option<Sweep>,
    /// The last complete comparison.
    #[serde(default)]
    #[schema(required)]
    pub last: Option<Sweep>,
    /// Why nothing can be compared at the moment; null if it can.
    #[serde(default)]
    #[schema(required)]
    pub waits_for: Option<String>,
    /// Entities that only an operator's word removes: see [`ResyncRequest::allow_removals`].
    #[serde(default)]
    #[schema(required)]
    pub removals_waiting: u64,
    /// Comparing what the tables hold, beyond versions.
    #[serde(default)]
    #[schema(required)]
    pub contents: ContentsStatus,
    /// How consistent it has been.
    #[serde(default)]
    #[schema(required)]
    pub audit: AuditStatus,
}

/// `POST resync`: compare now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResyncRequest {
    /// The followed entity.
    pub entity: EntityName,
    /// Whether everything is also read from the owner and applied again, even if it does not differ.
    #[serde(default)]
    pub full: bool,
    /// Whether entities that the owner does not have may be removed here, however many they are.
    #[serde(default)]
    pub allow_removals: bool,
}
