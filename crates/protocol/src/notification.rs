//! The message: an ID and the kind of change. Nothing else, ever.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{EntityId, Object, Version, object, version::InvalidVersion};

/// Header that carries the version a notification was published for.
///
/// It is a floor, not data: a callback that answers with a lower version is from before this
/// notification (a stale replica, a cache), so the owner is asked again. It can only cause another
/// callback, never save one. A publisher may leave it out.
pub const VERSION_HEADER: &str = "Nudge-Version";

/// The kind of change: a hint for people and metrics. No decision depends on it; what the
/// callback answers decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The entity did not exist before, or was deleted.
    Created,
    /// The entity existed and its state changed.
    Updated,
    /// The entity no longer exists.
    Deleted,
}

impl Change {
    /// The word on the wire and in the change log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Change::Created => "created",
            Change::Updated => "updated",
            Change::Deleted => "deleted",
        }
    }

    /// The kind for a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Change::Created, Change::Updated, Change::Deleted].into_iter().find(|c| c.as_str() == word)
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = [Change::Created, Change::Updated, Change::Deleted].map(|c| (c.as_str(), c));
        object::word(deserializer, &words)
    }
}

/// A notification's whole body: `{"id":"42","change":"updated"}`.
///
/// ```
/// use nudge_protocol::{Change, EntityId, Notification};
/// let n = Notification { id: EntityId::new("42").unwrap(), change: Change::Updated };
/// assert_eq!(n.to_json(), br#"{"id":"42","change":"updated"}"#);
/// assert_eq!(Notification::from_json(&n.to_json()).unwrap(), n);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Which entity changed.
    pub id: EntityId,
    /// How it changed, as a hint.
    pub change: Change,
}

impl Notification {
    /// The body as bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two strings always serialize")
    }

    /// Reads a body. The subscriber counts and logs a malformed body, and its
    /// subject still marks the key as changed: the message that it replaced may have been a genuine one.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Object<Self>>(body).map(|object| object.0)
    }
}

/// Reads the value of [`VERSION_HEADER`]: 1 to 16 digits, optionally surrounded by white space.
pub fn parse_version_header(value: &str) -> Result<Version, InvalidVersion> {
    value.trim().parse()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_that_say_too_little_or_something_else_are_refused() {
        for body in [
            "",
            "{}",
            "42",
            r#"{"id":"1"}"#,
            r#"{"id":"","change":"updated"}"#,
            r#"{"id":"1","change":"renamed"}"#,
            r#"{"id":"1","change":{"updated":null}}"#,
            r#"["1","updated"]"#,
            "\u{0}",
        ] {
            assert!(Notification::from_json(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn each_change_is_a_word_of_its_own() {
        let words = [
            (Change::Created, "created"),
            (Change::Updated, "updated"),
            (Change::Deleted, "deleted"),
        ];
        for (change, word) in words {
            assert_eq!((change.as_str(), Change::parse(word)), (word, Some(change)));
        }
        assert_eq!(Change::parse("renamed"), None);
    }

    #[test]
    fn the_version_header_is_the_version_and_nothing_else() {
        assert_eq!(parse_version_header("17"), Version::new(17));
        assert!(parse_version_header("seventeen").is_err());
    }

    #[test]
    fn the_body_holds_two_fields_and_no_more() {
        let n = Notification { id: EntityId::new("42").unwrap(), change: Change::Created };
        let value: serde_json::Value = serde_json::from_slice(&n.to_json()).unwrap();
        let mut fields: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(fields, ["change", "id"]);
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Notification::from_json(&bytes);
        }
    }
}
