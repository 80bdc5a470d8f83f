//! What comparing with the owner has shown: a certificate of one comparison, and a record of all.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, EntityName, Timestamp, digest::SetDigest};

/// Most entities in flight that an [`Agreement`] names.
pub const MAX_NAMED_IN_FLIGHT: usize = 256;

/// What was the same on both sides in a comparison, as far as it has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agreement {
    /// Entities that exist.
    #[serde(default)]
    #[schema(required)]
    pub entities: u64,
    /// Tombstones.
    #[serde(default)]
    #[schema(required)]
    pub tombstones: u64,
    /// The digest of both.
    #[serde(default)]
    #[schema(required)]
    pub digest: SetDigest,
    /// Entities that are left out, since a change of them was in flight; up to 256.
    #[serde(default)]
    #[schema(required)]
    pub in_flight: Vec<EntityId>,
    /// Further ones, not named.
    #[serde(default)]
    #[schema(required)]
    pub more_in_flight: u64,
}

/// "This subscriber equals its owner": both had these entities in the same versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The subscriber.
    pub service: String,
    /// The entity.
    pub entity: EntityName,
    /// The owner: its address.
    pub owner: String,
    /// When the comparison began. Each range of IDs was equal at some moment between this one and `as_of`.
    pub began_at: Timestamp,
    /// When it ended.
    pub as_of: Timestamp,
    /// Number of entities that exist.
    pub entities: u64,
    /// Number of tombstones; null if the owner keeps none.
    #[schema(required)]
    pub tombstones: Option<u64>,
    /// The digest of all entities and tombstones but those in flight.
    pub digest: SetDigest,
    /// Entities that are left out, since a change of them was in flight.
    pub in_flight: Vec<EntityId>,
    /// When the last complete comparison of contents ended without finding anything; null if there was none.
    #[schema(required)]
    pub contents_as_of: Option<Timestamp>,
    /// Entities that the comparison of contents left out, mostly since a change of them was in flight.
    #[serde(default)]
    #[schema(required)]
    pub contents_left_out: u64,
}

/// The certificate of one followed entity, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certified {
    /// The entity.
    pub entity: EntityName,
    /// The certificate of the last complete comparison.
    #[serde(default)]
    #[schema(required)]
    pub certificate: Option<Certificate>,
    /// Why there is none.
    #[serde(default)]
    #[schema(required)]
    pub why_not: Option<String>,
}

/// `GET certificates`: one for each followed entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificates {
    /// In the order in which they are followed.
    pub certificates: Vec<Certified>,
}

/// What comparing has found within about a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditDay {
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended; null if it has not.
    #[serde(default)]
    #[schema(required)]
    pub ended_at: Option<Timestamp>,
    /// Comparisons of an entity's version with its owner's.
    #[serde(default)]
    #[schema(required)]
    pub compared: u64,
    /// How many differed, by how long they did.
    #[serde(default)]
    #[schema(required)]
    pub differed: ByAge,
}

/// Numbers of entities that differed for at least so long. Each is counted in all of them that it reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByAge {
    /// One second: every difference that was confirmed.
    #[serde(default)]
    #[schema(required)]
    pub one_second: u64,
    /// Ten seconds.
    #[serde(default)]
    #[schema(required)]
    pub ten_seconds: u64,
    /// One minute.
    #[serde(default)]
    #[schema(required)]
    pub one_minute: u64,
    /// Five minutes.
    #[serde(default)]
    #[schema(required)]
    pub five_minutes: u64,
}

/// How consistent a followed entity has been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditStatus {
    /// The day in progress.
    #[serde(default)]
    #[schema(required)]
    pub current: Option<AuditDay>,
    /// The day before.
    #[serde(default)]
    #[schema(required)]
    pub last: Option<AuditDay>,
    /// Differences that were found and are not repaired yet, as far as this replica knows.
    #[serde(default)]
    #[schema(required)]
    pub open: u64,
}
