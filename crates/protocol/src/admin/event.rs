//! `GET events`: what happens to each key, one JSON object in each `data:` line.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{EntityId, EntityName, Timestamp, Version};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A notification came in.
    Received,
    /// A message came in that is not as it should be; its key is looked at all the same.
    Malformed,
    /// The owner answered.
    Fetched,
    /// The state is committed in the read model.
    Applied,
    /// The read model had this version or a later one already.
    Ignored,
    /// The key is tried again later.
    Retried,
    /// The key failed in a way that a retry alone does not mend.
    DeadLettered,
}

/// One event of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The kind of entity.
    pub entity: EntityName,
    /// Which one.
    pub id: EntityId,
    /// The version in question, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub version: Option<Version>,
    /// Seconds from the owner's commit to this event, where both are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lag_seconds: Option<f64>,
    /// Whether the entity is deleted, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deleted: Option<bool>,
    /// When it happened.
    #[serde(default)]
    #[schema(required, nullable = false)]
    pub at: Option<Timestamp>,
    /// More, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
}

impl Event {
    /// An event of which no more is known than what happened to which key, and when.
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

/// Told to a watcher that reads too slowly, in place of the events that it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    #[schema(inline)]
    kind: MissedKind,
    /// How many events.
    pub count: u64,
}

/// The one word that tells [`Missed`] apart from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MissedKind {
    Missed,
}

impl Missed {
    /// So many events are lost.
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
