//! `GET events`: what happens to each key, one JSON object in each `data:` line.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, EntityName, Timestamp, Version};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A notification arrived.
    Received,
    /// A malformed message arrived; its key is asked for all the same.
    Malformed,
    /// The owner answered.
    Fetched,
    /// The state is committed in the read model.
    Applied,
    /// The read model already had this version or a later one.
    Ignored,
    /// The key will be retried later.
    Retried,
    /// The key failed in a way that a retry alone does not fix.
    DeadLettered,
}

/// One event of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The kind of entity.
    pub entity: EntityName,
    /// The entity's ID.
    pub id: EntityId,
    /// The version in question, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<Version>,
    /// Seconds from the owner's commit to this event, if both are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lag_seconds: Option<f64>,
    /// Whether the entity is deleted, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deleted: Option<bool>,
    /// When it happened.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub at: Option<Timestamp>,
    /// More detail, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
}

impl Event {
    /// An event with only what happened, the key and the time.
    pub fn new(kind: EventKind, entity: &EntityName, id: &EntityId, at: Timestamp) -> Self {
        Self {
            kind,
            entity: entity.clone(),
            id: id.clone(),
            version: None,
            lag_seconds: None,
            deleted: None,
            at: Some(at),
            detail: None,
        }
    }
}

/// Sent to a watcher that reads too slowly, in place of the events that it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    #[schema(inline)]
    kind: MissedKind,
    /// How many events.
    pub count: u64,
}

/// The word that distinguishes [`Missed`] from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MissedKind {
    Missed,
}

impl Missed {
    /// This many events were missed.
    pub const fn new(count: u64) -> Self {
        Self { kind: MissedKind::Missed, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_an_event_is_left_out() {
        let (entity, id) = (EntityName::new("store").unwrap(), EntityId::new("42").unwrap());
        let event =
            Event::new(EventKind::DeadLettered, &entity, &id, Timestamp::from_unix_micros(0));
        let json = serde_json::to_string(&event).unwrap();
        let at = "1970-01-01T00:00:00.000000Z";
        let expected =
            format!(r#"{{"kind":"dead_lettered","entity":"store","id":"42","at":"{at}"}}"#);
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn missed_events_are_told_apart_from_an_event() {
        let json = serde_json::to_string(&Missed::new(3)).unwrap();
        assert_eq!(json, r#"{"kind":"missed","count":3}"#);
        assert!(serde_json::from_str::<Event>(&json).is_err());
        assert_eq!(serde_json::from_str::<Missed>(&json).unwrap().count, 3);
        let other = r#"{"kind":"applied","count":3}"#;
        assert!(serde_json::from_str::<Missed>(other).is_err());
    }
}
