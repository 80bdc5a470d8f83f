//! Notifications as CloudEvents 1.0, in the binary mode of the NATS protocol binding: what describes an event is in headers
//! whose names begin with `ce-`. A notification has no data but its own two fields, so a consumer of CloudEvents learns
//! that something changed, and nothing about it.

use crate::{Change, EntityId, EntityName, Version, subject};

/// What the names of headers begin with.
pub const PREFIX: &str = "ce-";
/// Longest source, in bytes: with everything else, the headers of a notification stay within what its stream takes.
pub const MAX_SOURCE_BYTES: usize = 256;

/// The `source` of an owner's events, a URI reference such as `/store-info` or `https://stores.example/`.
///
/// ```
/// use nudge_protocol::cloud_events::EventSource;
/// assert_eq!(EventSource::new("/store-info").unwrap().as_str(), "/store-info");
/// assert!(EventSource::new("").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSource(String);

/// Why a text is not an [`EventSource`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a source is a URI reference of 1 to {MAX_SOURCE_BYTES} visible ASCII characters, such as /store-info"
)]
pub struct InvalidSource;

impl EventSource {
    /// Checks a source.
    ///
    /// # Errors
    /// If it is empty, too long, or holds what no URI holds.
    pub fn new(text: &str) -> Result<Self, InvalidSource> {
        let allowed = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c);
        let fits = (1..=MAX_SOURCE_BYTES).contains(&text.len());
        (fits && text.chars().all(allowed)).then(|| Self(text.to_owned())).ok_or(InvalidSource)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The headers of a notification, as names and values. The ID of the event is the version of the entity: a
    /// notification that is published again is the same event.
    pub fn headers(
        &self,
        entity: &EntityName,
        id: &EntityId,
        change: Change,
        version: Version,
    ) -> [(&'static str, String); 6] {
        [
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", encode(&format!("{}@{version}", subject::encode_token(id)))),
            ("ce-source", encode(&self.0)),
            ("ce-type", format!("nudge.{entity}.{}", change.as_str())),
            ("ce-subject", encode(id.as_str())),
            ("ce-datacontenttype", "application/json".to_owned()),
        ]
    }
}

impl std::str::FromStr for EventSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        Self::new(text)
    }
}

/// The value of an attribute as the value of a header: spaces, quotation marks, percent signs, and all that is not visible
/// ASCII are percent-encoded.
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => encoded.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The value of an attribute from that of a header. `None` if it is not UTF-8. A percent sign that begins no encoded byte
/// stands for itself, as some publishers write it.
pub fn decode(header: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(header.len());
    let mut rest = header.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let hex = hex.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_notification_is_described_without_a_word_about_its_data() {
        let source = EventSource::new("/store-info").unwrap();
        let (entity, id) = (EntityName::new("store").unwrap(), EntityId::new("a b/가").unwrap());
        let headers = source.headers(&entity, &id, Change::Deleted, Version::new(17).unwrap());
        let expected = [
            ("ce-specversion", "1.0"),
            ("ce-id", "a%2520b%252F%25EA%25B0%2580@17"),
            ("ce-source", "/store-info"),
            ("ce-type", "nudge.store.deleted"),
            ("ce-subject", "a%20b/%EA%B0%80"),
            ("ce-datacontenttype", "application/json"),
        ];
        assert_eq!(headers.each_ref().map(|(name, value)| (*name, value.as_str())), expected);
        assert!(headers.iter().all(|(name, _)| name.starts_with(PREFIX)));
    }

    /// The stream refuses longer ones.
    #[test]
    fn the_longest_headers_leave_room_in_a_message() {
        let source = EventSource::new(&"s".repeat(MAX_SOURCE_BYTES)).unwrap();
        let id = EntityId::new(&"\"".repeat(200)).unwrap();
        let entity = EntityName::new(&"e".repeat(40)).unwrap();
        let headers = source.headers(&entity, &id, Change::Created, Version::new(1).unwrap());
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert!(bytes < 2_400, "{bytes}");
    }

    #[test]
    fn a_source_is_what_a_uri_may_be() {
        for good in ["/", "https://a.example/b?c=d#e", "urn:uuid:1"] {
            assert!(EventSource::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "가", "a\nb", "<a>", &"a".repeat(MAX_SOURCE_BYTES + 1)] {
            assert_eq!(EventSource::new(bad), Err(InvalidSource), "{bad}");
        }
    }

    #[test]
    fn what_others_encode_less_strictly_is_read_too() {
        assert_eq!(decode("100%"), Some("100%".to_owned()));
        assert_eq!(decode("%zz%4"), Some("%zz%4".to_owned()));
        assert_eq!(decode("%ea%b0%80"), Some("가".to_owned()));
        assert_eq!(decode("%+1"), Some("%+1".to_owned()));
        assert_eq!(decode("%ff"), None);
    }

    proptest! {
        #[test]
        fn every_value_is_read_as_it_was_written(value in any::<String>()) {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decode(&encoded), Some(value));
        }
    }
}
