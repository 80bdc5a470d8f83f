//! A line of a subscriber's `GET /nudge/v1/events`.

use nudge_protocol::admin::{Event, Missed};

/// The content of a line of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// An event.
    Event(Event),
    /// We read too slowly, and this many events were dropped.
    Missed(u64),
}

/// Reads a line of the stream. An unknown line comes from a newer subscriber and is `None`.
pub(crate) fn read(data: &str) -> Option<Told> {
    match serde_json::from_str(data) {
        Ok(event) => Some(Told::Event(event)),
        Err(_) => serde_json::from_str(data).ok().map(|Missed { count, .. }| Told::Missed(count)),
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::admin::EventKind;

    use super::*;

    #[test]
    fn events_are_read_as_the_kit_writes_them() {
        let line = r#"{"kind":"dead_lettered","entity":"store","id":"42","version":17,
            "lag_seconds":0.5,"deleted":false,"at":"2026-01-01T00:00:00.000001Z","detail":"no"}"#;
        let Some(Told::Event(event)) = read(line) else { panic!("an event") };
        assert_eq!((event.kind, event.lag_seconds), (EventKind::DeadLettered, Some(0.5)));
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
