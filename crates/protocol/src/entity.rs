//! Entity names and IDs.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Longest entity name, in bytes.
pub const MAX_ENTITY_NAME_BYTES: usize = 40;
/// Longest entity ID, in bytes of UTF-8. Percent-encoded into a subject token it grows to at most
/// three times this, 600 bytes, which NATS accepts.
pub const MAX_ENTITY_ID_BYTES: usize = 200;

/// The kind of an entity: `store`, `review`, `charging-station`.
///
/// Lower-case ASCII letters, digits, `-` and `_`, beginning with a letter, at most
/// [`MAX_ENTITY_NAME_BYTES`]. It becomes part of stream names, subjects and paths, so it needs no
/// escaping in any of them.
///
/// ```
/// use nudge_protocol::EntityName;
/// assert!("store".parse::<EntityName>().is_ok());
/// assert!("Store".parse::<EntityName>().is_err());
/// assert!("a.b".parse::<EntityName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(
    value_type = String,
    description = "The kind of an entity.",
    pattern = "^[a-z][a-z0-9_-]*$",
    max_length = 40,
    example = "store"
)]
pub struct EntityName(Arc<str>);

/// Why a text is not an [`EntityName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "entity name {0:?} must be 1 to {MAX_ENTITY_NAME_BYTES} characters of a-z, 0-9, '-' or '_', beginning with a letter"
)]
pub struct InvalidEntityName(String);

impl EntityName {
    /// Parses a name. See [`EntityName`] for what is allowed.
    pub fn new(name: &str) -> Result<Self, InvalidEntityName> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let ok = name.len() <= MAX_ENTITY_NAME_BYTES
            && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
            && name.bytes().all(allowed);
        if ok { Ok(Self(name.into())) } else { Err(InvalidEntityName(name.into())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The ID of one entity: 1 to [`MAX_ENTITY_ID_BYTES`] bytes of UTF-8 without control characters.
///
/// IDs come from outside and may contain anything else: spaces, `/`, `%`, `*`, `>`, Korean. They are
/// percent-encoded wherever they become part of a subject or a path (see [`crate::subject`]).
/// Cloning is cheap.
///
/// ```
/// use nudge_protocol::EntityId;
/// assert!("강남 1호점/별관".parse::<EntityId>().is_ok());
/// assert!("".parse::<EntityId>().is_err());
/// assert!("line\nbreak".parse::<EntityId>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(
    value_type = String,
    description = "The ID of one entity: 1 to 200 bytes of UTF-8 without control characters.",
    min_length = 1,
    max_length = 200,
    pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
    example = "42"
)]
pub struct EntityId(Arc<str>);

/// Why a text is not an [`EntityId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntityId {
    /// The text is empty.
    #[error("an ID must not be empty")]
    Empty,
    /// The text is longer than [`MAX_ENTITY_ID_BYTES`].
    #[error("an ID must be at most {MAX_ENTITY_ID_BYTES} bytes of UTF-8, but this one has {0}")]
    TooLong(usize),
    /// The text contains a control character.
    #[error("an ID must not contain control characters")]
    ControlCharacter,
}

impl EntityId {
    /// Parses an ID. See [`EntityId`] for what is allowed.
    pub fn new(id: &str) -> Result<Self, InvalidEntityId> {
        if id.is_empty() {
            Err(InvalidEntityId::Empty)
        } else if id.len() > MAX_ENTITY_ID_BYTES {
            Err(InvalidEntityId::TooLong(id.len()))
        } else if id.chars().any(char::is_control) {
            Err(InvalidEntityId::ControlCharacter)
        } else {
            Ok(Self(id.into()))
        }
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($type:ident, $error:ident) => {
        impl FromStr for $type {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                Self::new(text)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        // Lets a plain `&str` look up maps keyed by this type.
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_type!(EntityName, InvalidEntityName);
text_type!(EntityId, InvalidEntityId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_200_bytes_and_no_more() {
        assert!(EntityId::new(&"a".repeat(200)).is_ok());
        assert_eq!(EntityId::new(&"a".repeat(201)), Err(InvalidEntityId::TooLong(201)));
        // 67 Korean syllables are 201 bytes: the bound counts bytes, not characters.
        assert_eq!(EntityId::new(&"가".repeat(67)), Err(InvalidEntityId::TooLong(201)));
        assert!(EntityId::new(&"가".repeat(66)).is_ok());
    }

    #[test]
    fn control_characters_are_refused_wherever_they_stand() {
        for id in ["\0", "a\tb", "a\u{7f}", "\u{85}x"] {
            assert_eq!(EntityId::new(id), Err(InvalidEntityId::ControlCharacter), "{id:?}");
        }
    }

    #[test]
    fn names_that_would_need_escaping_are_refused() {
        for name in ["", "1store", "-x", "Store", "a.b", "a b", "a/b", "가게", &"a".repeat(41)] {
            assert!(EntityName::new(name).is_err(), "{name:?}");
        }
        for name in ["a", "store", "charging-station", "menu_2", &"a".repeat(40)] {
            assert!(EntityName::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn deserializing_applies_the_same_rules() {
        assert!(serde_json::from_str::<EntityId>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<EntityId>("\"\"").is_err());
        assert!(serde_json::from_str::<EntityName>("\"No\"").is_err());
    }
}
