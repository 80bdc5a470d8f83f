//! An event as a subscriber's `GET /nudge/v1/events` tells it.

use nudge_protocol::{EntityId, EntityName, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// What a subscriber has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A notification arrived.
    Received,
    /// A message arrived that is not as it should be; its key is looked at all the same.
    Malformed,
    /// The owner answered the callback.
    Fetched,
    /// The state was committed to the read model.
    Applied,
    /// The read model had this version or a newer one already.
    Ignored,
    /// It failed and will be tried again.
    Retried,
    /// It failed for good.
    DeadLettered,
    /// Something that a newer subscriber tells.
    #[serde(other)]
    Other,
}

/// One event.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: Kind,
    /// To what kind of entity.
    pub(crate) entity: EntityName,
    /// To which one.
    pub(crate) id: EntityId,
    /// In which version, as far as it is known.
    #[serde(default)]
    pub(crate) version: Option<Version>,
    /// From the owner's commit to this event, in seconds.
    #[serde(default)]
    pub(crate) lag_seconds: Option<f64>,
    /// Whether the entity is deleted in that version, where that is known.
    #[serde(default)]
    pub(crate) deleted: Option<bool>,
    /// When.
    #[serde(default)]
    pub(crate) at: Option<Timestamp>,
    /// More, for a person.
    #[serde(default)]
    pub(crate) detail: Option<String>,
}

/// What a line of the stream tells.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// An event.
    Event(Event),
    /// We read too slowly, and this many events were dropped.
    Missed(u64),
}

/// Reads a line of the stream. What is not understood comes from a newer subscriber and is `None`.
pub(crate) fn read(data: &str) -> Option<Told> {
    #[derive(Deserialize)]
    struct Missed {
        kind: String,
        count: u64,
    }
    match serde_json::from_str::<Event>(data) {
        Ok(event) => (event.kind != Kind::Other).then_some(Told::Event(event)),
        Err(_) => {
            let missed: Missed = serde_json::from_str(data).ok()?;
            (missed.kind == "missed").then_some(Told::Missed(missed.count))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_kit_writes_them() {
        let line = r#"{"kind":"dead_lettered","entity":"store","id":"42","version":17,
            "lag_seconds":0.5,"deleted":false,"at":"2026-01-01T00:00:00.000001Z","detail":"no"}"#;
        let Some(Told::Event(event)) = read(line) else { panic!("an event") };
        assert_eq!((event.kind, event.lag_seconds), (Kind::DeadLettered, Some(0.5)));
        assert!(matches!(read(r#"{"kind":"missed","count":3}"#), Some(Told::Missed(3))));
    }

    #[test]
    fn what_a_newer_subscriber_tells_is_passed_over() {
        let strange = r#"{"kind":"praised","entity":"store","id":"42"}"#;
        for line in [strange, "", "7", r#"{"kind":"missed"}"#] {
            assert!(read(line).is_none(), "{line}");
        }
    }
}
