//! `GET status`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ResyncStatus, known};
use crate::{EntityName, Timestamp};

/// The status of a subscriber.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Its name.
    #[serde(default)]
    #[schema(required)]
    pub service: String,
    /// Whether it serves: see the readiness check.
    #[serde(default)]
    #[schema(required)]
    pub ready: bool,
    /// Whether intake and work of this replica are paused.
    #[serde(default)]
    #[schema(required)]
    pub paused: bool,
    /// One for each followed entity.
    #[serde(default)]
    #[schema(required)]
    pub entities: Vec<EntityStatus>,
}

/// The status of one followed entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntityStatus {
    /// The entity.
    pub entity: EntityName,
    /// Entities whose state or tombstone is applied. A large number may be somewhat old: it is counted for at most a
    /// fiftieth of the time.
    #[serde(default)]
    #[schema(required)]
    pub applied: u64,
    /// Seconds from the owner's commit to the row being applied, for the last change since the first catch-up; 0 before any.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub lag_seconds: Option<f64>,
    /// Keys that wait for a callback.
    #[serde(default)]
    #[schema(required)]
    pub queued: i64,
    /// Keys being asked for or applied.
    #[serde(default)]
    #[schema(required)]
    pub processing: i64,
    /// Keys in memory whose last try failed.
    #[serde(default)]
    #[schema(required)]
    pub retrying: i64,
    /// Parked keys: rows of the dead-letter table that are retried automatically. A large number may be some time old.
    #[serde(default)]
    #[schema(required)]
    pub parked: u64,
    /// Dead letters: rows of the dead-letter table that are not. A large number may be some time old.
    #[serde(default)]
    #[schema(required)]
    pub dead_letters: u64,
    /// The circuit breaker to the owner.
    #[serde(default, deserialize_with = "known")]
    #[schema(required, nullable = false)]
    pub breaker: Option<BreakerState>,
    /// Whether intake and work of this replica are paused.
    #[serde(default)]
    #[schema(required)]
    pub paused: bool,
    /// When something was last applied or found up to date; null before that.
    #[serde(default)]
    #[schema(required)]
    pub last_progress: Option<Timestamp>,
    /// Whether notifications can arrive at this moment.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub connected: Option<bool>,
    /// Whether the connection to the broker is up at this moment. If it is and `connected` is false, `last_error`
    /// says why notifications do not arrive.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub broker_connected: Option<bool>,
    /// Whether the first catch-up of this read model is complete.
    #[serde(default)]
    #[schema(required)]
    pub caught_up: bool,
    /// How far it is; null once it is complete.
    #[serde(default)]
    #[schema(required)]
    pub catching_up: Option<CatchingUp>,
    /// Messages that the broker had not delivered yet when last asked.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub stream_pending: Option<i64>,
    /// Stream sequence up to which everything is handled.
    #[serde(default)]
    #[schema(required)]
    pub position: u64,
    /// Malformed messages since the start.
    #[serde(default)]
    #[schema(required)]
    pub malformed: u64,
    /// Calls to the owner since the start.
    #[serde(default)]
    #[schema(required)]
    pub callbacks: u64,
    /// The last error; null once everything works again.
    #[serde(default)]
    #[schema(required)]
    pub last_error: Option<String>,
    /// How the read model is compared with the owner; null if it is not.
    #[serde(default)]
    #[schema(required)]
    pub resync: Option<ResyncStatus>,
}

/// How far the first catch-up of a read model is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatchingUp {
    /// Notifications handled since this replica started.
    pub handled: u64,
    /// Notifications that are left.
    pub left: u64,
    /// About how many seconds that takes, at the pace so far; null if nothing is handled yet.
    #[serde(default)]
    #[schema(required)]
    pub seconds_left: Option<f64>,
}

/// The state of the circuit breaker to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Calls flow.
    Closed,
    /// Calls are stopped.
    Open,
    /// A probe is in progress.
    HalfOpen,
}

impl BreakerState {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_another_release_leaves_out_or_adds_does_not_stop_the_reading() {
        let status = json!({"entities": [{"entity": "store", "breaker": "ajar", "new": {}}]});
        let status: Status = serde_json::from_value(status).unwrap();
        let entity = &status.entities[0];
        assert_eq!((entity.breaker, entity.connected, entity.applied), (None, None, 0));
    }

    #[test]
    fn a_breaker_is_written_by_its_word_and_read_again() {
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            let text = json!({"entity": "store", "breaker": state});
            assert_eq!(text["breaker"], state.as_str());
            let read: EntityStatus = serde_json::from_value(text).unwrap();
            assert_eq!(read.breaker, Some(state));
        }
    }
}
