//! `api/notifications.asyncapi.json` describes what the code does.

use nudge_protocol::{
    Change, EntityId, EntityName, Notification, notification::VERSION_HEADER, subject,
};
use nudge_publisher::stream;
use serde_json::Value;

fn document() -> Value {
    let text = include_str!("../../api/notifications.asyncapi.json");
    serde_json::from_str(text).expect("the document is JSON")
}

#[test]
fn the_address_is_where_notifications_are_published() {
    let document = document();
    let address = document["channels"]["changes"]["address"].as_str().unwrap();
    let (entity, id) = (EntityName::new("store").unwrap(), EntityId::new("a.b").unwrap());
    let expected =
        address.replace("{entity}", "store").replace("{token}", &subject::encode_token(&id));
    assert_eq!(subject::subject(&entity, &id), expected);
    let described = document["channels"]["changes"]["description"].as_str().unwrap();
    assert!(described.contains(&stream::config(&entity).name.replace("store", "<entity>")));
}

#[test]
fn the_schema_is_the_body_field_for_field() {
    let document = document();
    let schema = &document["components"]["schemas"]["Notification"];
    let body = Notification { id: EntityId::new("42").unwrap(), change: Change::Updated }.to_json();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let written: Vec<_> = body.as_object().unwrap().keys().collect();
    let mut documented: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    documented.sort_by_key(|name| written.iter().position(|w| w == name));
    assert_eq!(documented, written);
    assert_eq!(schema["additionalProperties"], false);
    let words: Vec<_> = schema["properties"]["change"]["enum"].as_array().unwrap().clone();
    assert_eq!(words.len(), 3);
    assert!(words.iter().all(|word| Change::parse(word.as_str().unwrap()).is_some()));
    let longest = schema["properties"]["id"]["maxLength"].as_u64().unwrap();
    assert_eq!(longest as usize, nudge_protocol::entity::MAX_ENTITY_ID_BYTES);
}

#[test]
fn the_example_is_a_notification_and_the_header_has_its_name() {
    let message = &document()["components"]["messages"]["notification"];
    let example = &message["examples"][0];
    assert!(Notification::from_json(example["payload"].to_string().as_bytes()).is_ok());
    assert!(message["headers"]["properties"][VERSION_HEADER].is_object());
    let version = example["headers"][VERSION_HEADER].as_str().unwrap();
    assert!(nudge_protocol::notification::parse_version_header(version).is_ok());
}
