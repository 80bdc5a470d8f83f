//! `POST keys/{entity}`: how single keys stand at a subscriber, and how their last runs went.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppliedVersion, DeadLetter, known};
use crate::{EntityId, Timestamp, Version};

/// Most IDs in one [`KeysRequest`].
pub const MAX_KEYS: usize = 256;
/// Most runs that are told of each key.
pub const MAX_RUNS_PER_KEY: usize = 4;

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysRequest {
    /// 1 to 256 IDs.
    #[schema(min_items = 1, max_items = 256)]
    pub ids: Vec<EntityId>,
}

/// How they stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Keys {
    /// One for each ID that was asked for, in that order.
    pub items: Vec<Key>,
}

/// How one key stands.
///
/// The work queue and the runs are those of the replica that answers. The rest is in the database, which the
/// replicas share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// The entity's ID.
    pub id: EntityId,
    /// How it stands, in one word.
    #[serde(default, deserialize_with = "known")]
    #[schema(required, nullable = false)]
    pub state: Option<KeyState>,
    /// What the read model has; null if nothing.
    #[serde(default)]
    #[schema(required)]
    pub applied: Option<AppliedVersion>,
    /// What the work queue has to do for it, or is doing; null if nothing.
    #[serde(default)]
    #[schema(required)]
    pub work: Option<KeyWork>,
    /// Its row in the dead-letter table; null if there is none.
    #[serde(default)]
    #[schema(required)]
    pub dead_letter: Option<DeadLetter>,
    /// Its last runs, oldest first, at most 4. A replica remembers only so many, so there may be none.
    #[serde(default)]
    #[schema(required)]
    pub runs: Vec<KeyRun>,
}

/// How a key stands. If it is in the work queue and in the dead-letter table, the work queue counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// There is nothing to do.
    Idle,
    /// It waits for its run.
    Waiting,
    /// The owner is being asked for it, or the answer is being applied.
    Processing,
    /// Its last run did not succeed; it waits for the next.
    Retrying,
    /// It failed so often that it waits in the dead-letter table, which is where it is retried from.
    Parked,
    /// It is in the dead-letter table, and not retried automatically.
    DeadLetter,
}

impl KeyState {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Processing => "processing",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// In which order keys wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyLane {
    /// What was just published goes first.
    Fresh,
    /// Catch-up, retries, replays and what a comparison found.
    Backlog,
}

/// What the work queue has of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyWork {
    /// When the first of what it is to run for arrived.
    pub since: Timestamp,
    /// Notifications among that: one callback answers them all.
    #[serde(default)]
    #[schema(required)]
    pub notifications: u32,
    /// The stream sequence of the newest of them; null if there is none.
    #[serde(default)]
    #[schema(required)]
    pub sequence: Option<u64>,
    /// In which order it waits.
    #[serde(default, deserialize_with = "known")]
    #[schema(required, nullable = false)]
    pub lane: Option<KeyLane>,
    /// The owner's answer must have this version or a later one; null if no notification named one.
    #[serde(default)]
    #[schema(required)]
    pub floor: Option<Version>,
    /// When it may run; null if at once.
    #[serde(default)]
    #[schema(required)]
    pub not_before: Option<Timestamp>,
    /// Failed runs so far.
    #[serde(default)]
    #[schema(required)]
    pub attempts: u32,
    /// Why the last run did not succeed; null if there was none.
    #[serde(default)]
    #[schema(required)]
    pub error: Option<String>,
}

/// One run of a key that has ended: from the notifications to what became of the owner's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRun {
    /// When the first of what it ran for arrived.
    pub since: Timestamp,
    /// Notifications among that: this one callback answered them all. 0 if something else caused the run,
    /// such as a replay.
    #[serde(default)]
    #[schema(required)]
    pub notifications: u32,
    /// The stream sequence of the newest of them; null if it is not known.
    #[serde(default)]
    #[schema(required)]
    pub sequence: Option<u64>,
    /// When the broker stored the newest of them; null if it is not known.
    #[serde(default)]
    #[schema(required)]
    pub published_at: Option<Timestamp>,
    /// When the owner was asked.
    pub asked_at: Timestamp,
    /// When the owner had answered; null if it did not.
    #[serde(default)]
    #[schema(required)]
    pub answered_at: Option<Timestamp>,
    /// The version that the owner answered with; null without one.
    #[serde(default)]
    #[schema(required)]
    pub version: Option<Version>,
    /// Whether that is a tombstone; null without one.
    #[serde(default)]
    #[schema(required)]
    pub deleted: Option<bool>,
    /// When the owner committed it; null without one.
    #[serde(default)]
    #[schema(required)]
    pub changed_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, deserialize_with = "known")]
    #[schema(required, nullable = false)]
    pub outcome: Option<RunOutcome>,
    /// When that was durable.
    pub ended_at: Timestamp,
    /// Failed runs before this one.
    #[serde(default)]
    #[schema(required)]
    pub attempts: u32,
    /// Why the key runs again, or is in the dead-letter table; else null.
    #[serde(default)]
    #[schema(required)]
    pub error: Option<String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The answer is committed in the read model.
    Applied,
    /// The read model had that version or a later one.
    Ignored,
    /// The key runs again.
    Retried,
    /// The key was parked.
    Parked,
    /// The key became a dead letter.
    DeadLetter,
}

impl RunOutcome {
    /// The word for it, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Ignored => "ignored",
            Self::Retried => "retried",
            Self::Parked => "parked",
            Self::DeadLetter => "dead_letter",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_written_by_its_word_and_a_newer_one_counts_as_unknown() {
        for state in [
            KeyState::Idle,
            KeyState::Waiting,
            KeyState::Processing,
            KeyState::Retrying,
            KeyState::Parked,
            KeyState::DeadLetter,
        ] {
            let key: Key = serde_json::from_value(json!({"id": "42", "state": state})).unwrap();
            assert_eq!(key.state, Some(state));
            assert_eq!(json!(key)["state"], state.as_str());
        }
        let key: Key = serde_json::from_value(json!({"id": "42", "state": "adrift"})).unwrap();
        assert_eq!((key.state, key.runs.len()), (None, 0));
    }
}
