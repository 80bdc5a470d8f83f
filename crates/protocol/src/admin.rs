//! What every subscriber reports about itself, under `/nudge/v1` and at `/livez` and `/readyz`; and what an owner
//! reports about its tombstones and its change log.
//!
//! The kit writes these answers and the command line reads them. The two may have different releases:
//! a reader ignores unknown fields, and takes missing ones as their default, or as `None`
//! where that means "unknown". A writer omits nothing, as the published document says.

mod audit;
mod change_log;
mod dead_letter;
mod event;
mod key;
mod resync;
mod status;
mod tombstone;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{EntityName, Timestamp, Version};

pub use audit::{
    Agreement, AuditDay, AuditStatus, ByAge, Certificate, Certificates, Certified,
    MAX_NAMED_IN_FLIGHT,
};
pub use change_log::{
    ChangeLogAnswer, ChangeLogItem, ChangeLogRequest, MAX_CHANGE_LOG_IDS, RecordedVersion,
    StreamEnd, StreamMessage,
};
pub use dead_letter::{DeadLetter, DeadLetterPage, NextDeadLetter};
pub use event::{Event, EventKind, Missed};
pub use key::{
    Key, KeyLane, KeyRun, KeyState, KeyWork, Keys, KeysRequest, MAX_KEYS, MAX_RUNS_PER_KEY,
    RunOutcome,
};
pub use resync::{ContentsPass, ContentsStatus, Differences, ResyncRequest, ResyncStatus, Sweep};
pub use status::{BreakerState, CatchingUp, EntityStatus, Status};
pub use tombstone::{
    Flagged, MAX_NEVER_EXISTED_IDS, NeverExisted, StrangerTombstone, StrangerTombstones,
};

/// `GET /livez`: the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    /// Always true.
    pub live: bool,
}

/// `GET /readyz`: whether the read model may be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// The database answers, every followed entity has caught up once, no task is dead, and the service is not stopping.
    /// If it was started to be ready only when equal, every followed entity has been found equal to its owner.
    pub ready: bool,
    /// Whether the database answers.
    pub database: bool,
    /// The entities that have never caught up with their owner yet.
    pub catching_up: Vec<EntityName>,
    /// The entities that have not been found equal to their owner yet, if that is waited for.
    #[serde(default)]
    #[schema(required)]
    pub comparing: Vec<EntityName>,
    /// Tasks that have panicked, such as `store: intake`: until this replica is restarted, their work is not done.
    #[serde(default)]
    #[schema(required)]
    pub dead_tasks: Vec<String>,
}

/// `GET applied/{entity}/{id}` and `GET wait`: what the read model holds for an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Applied)]
pub struct AppliedVersion {
    /// The version applied.
    pub version: Version,
    /// Whether that was a deletion.
    pub deleted: bool,
    /// When it was applied.
    pub applied_at: Timestamp,
}

/// `POST pause` and `POST resume`: whether this replica is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// Whether intake and work are paused.
    pub paused: bool,
}

/// `POST dead-letters/{entity}/{id}/replay`: the key is on the work queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queued {
    /// Always true.
    pub queued: bool,
}

/// A word that only newer releases know counts as unknown.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let word = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(word).ok())
}
