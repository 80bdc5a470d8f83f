//! Notifications from publishers of CloudEvents that know nothing of Nudge.

use async_nats::Message;
use nudge_protocol::{
    Change, EntityId,
    cloud_events::{PREFIX, decode},
};
use serde_json::{Map, Value};

/// What the media type of an event in structured mode begins with.
const STRUCTURED: &str = "application/cloudevents";

/// Where CloudEvents 1.0 tell of changes of an entity: a stream that exists already, and which of its subjects. Binary and
/// structured mode (JSON) are understood, as in the NATS protocol binding. See
/// [`Builder::cloud_events`](crate::Builder::cloud_events).
///
/// Only the attribute that names the entity is read; the data is not, since it is old when it arrives. An event without that
/// attribute is counted as malformed.
///
/// ```
/// use nudge_subscriber_kit::CloudEvents;
/// let events = CloudEvents::on("ORDERS", "shop.orders.*").key("partitionkey");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvents {
    pub(super) stream: String,
    pub(super) subjects: String,
    key: String,
}

impl CloudEvents {
    /// The events in this JetStream stream on these subjects, which may hold wildcards. Their attribute `subject` is the
    /// entity's ID.
    pub fn on(stream: &str, subjects: &str) -> Self {
        let [stream, subjects, key] = [stream, subjects, "subject"].map(str::to_owned);
        Self { stream, subjects, key }
    }

    /// Takes the entity's ID from another attribute, such as an extension.
    pub fn key(self, attribute: &str) -> Self {
        Self { key: attribute.to_ascii_lowercase(), ..self }
    }

    /// Which entity an event is about, and how it changed, as far as its type tells.
    pub(super) fn read(&self, message: &Message) -> Option<(EntityId, Change)> {
        let body = self.structured(message);
        let attribute = |name: &str| match &body {
            Some(event) => event.get(name).and_then(Value::as_str).map(str::to_owned),
            None => decode(header(message, &format!("{PREFIX}{name}"))?),
        };
        let id = EntityId::new(&attribute(&self.key)?).ok()?;
        Some((id, change(&attribute("type").unwrap_or_default())))
    }

    /// The event, if the whole of it is in the body.
    fn structured(&self, message: &Message) -> Option<Map<String, Value>> {
        let media_type = header(message, "content-type")?.to_ascii_lowercase();
        let is_structured = media_type.starts_with(STRUCTURED);
        is_structured.then(|| serde_json::from_slice(&message.payload).unwrap_or_default())
    }
}

/// A header by its name, in whatever case it was written.
fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let mut all = message.headers.as_ref()?.iter();
    let (_, values) = all.find(|(is, _)| AsRef::<str>::as_ref(is).eq_ignore_ascii_case(name))?;
    values.first().map(|value| value.as_str())
}

/// A hint, as ever. Types are named as their publishers like.
fn change(of: &str) -> Change {
    let of = of.to_ascii_lowercase();
    let ends = |words: &[&str]| words.iter().any(|word| of.ends_with(word));
    match () {
        () if ends(&["created", "added"]) => Change::Created,
        () if ends(&["deleted", "removed"]) => Change::Deleted,
        () => Change::Updated,
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn message(headers: &[(&str, &str)], body: &str) -> Message {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        Message {
            subject: "shop.orders.changed".into(),
            reply: None,
            payload: body.to_owned().into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn read(headers: &[(&str, &str)], body: &str) -> Option<(String, Change)> {
        let read = CloudEvents::on("S", "shop.>").read(&message(headers, body));
        read.map(|(id, change)| (id.as_str().to_owned(), change))
    }

    #[test]
    fn both_modes_name_the_entity_in_whatever_case_headers_are() {
        let binary = [("CE-Subject", "a%20b/%EA%B0%80"), ("ce-type", "com.shop.OrderDeleted")];
        assert_eq!(read(&binary, "anything"), Some(("a b/가".to_owned(), Change::Deleted)));
        let structured = [("Content-Type", "application/cloudevents+json; charset=utf-8")];
        let body = r#"{"specversion":"1.0","subject":"a%20b","type":"order.created","data":{}}"#;
        assert_eq!(read(&structured, body), Some(("a%20b".to_owned(), Change::Created)));
    }

    #[test]
    fn what_names_no_entity_is_none() {
        assert_eq!(read(&[("ce-type", "x")], r#"{"subject":"1"}"#), None);
        assert_eq!(read(&[("ce-subject", "")], ""), None);
        assert_eq!(read(&[("ce-subject", "%ff")], ""), None);
        for body in ["", "[]", r#"{"subject":5}"#, r#"{"type":"t"}"#] {
            assert_eq!(read(&[("content-type", "application/cloudevents")], body), None, "{body}");
        }
        let none = Message { headers: None, ..message(&[], "{}") };
        assert_eq!(CloudEvents::on("S", ">").read(&none), None);
    }

    #[test]
    fn another_attribute_may_hold_the_key() {
        let events = CloudEvents::on("S", ">").key("PartitionKey");
        let message = message(&[("ce-subject", "orders/7"), ("ce-partitionkey", "7")], "");
        assert_eq!(events.read(&message).unwrap().0.as_str(), "7");
    }
}
