//! CloudEvents: an owner's notifications are some, and a publisher that knows nothing of Nudge is followed.

use async_nats::{
    HeaderMap,
    jetstream::stream::{Config, RetentionPolicy},
};
use futures_util::StreamExt;
use nudge_protocol::cloud_events::EventSource;
use nudge_runtime::{Broker, Database, database::Durability};
use nudge_subscriber_kit::{CloudEvents, Mirror, StartError, Subscriber};
use nudge_tests::{Copy, Nats, Owner, ReadModel, eventually};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The stream of somebody else, who keeps several events of each subject.
async fn shop(broker: &Broker, retention: RetentionPolicy) {
    let config = Config {
        name: "SHOP".to_owned(),
        subjects: vec!["shop.>".to_owned()],
        retention,
        ..Config::default()
    };
    broker.jetstream.create_stream(config).await.unwrap();
}

async fn publish(broker: &Broker, subject: &str, headers: &[(&str, &str)], body: &Value) {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let body = body.to_string().into();
    let sent = broker.jetstream.publish_with_headers(subject.to_owned(), map, body).await;
    sent.unwrap().await.unwrap();
}

/// Waits until the copy has this body.
async fn shows(copy: &Copy, id: &str, body: Option<Value>) {
    eventually("the copy shows it", || async { (copy.body(id).await == body).then_some(()) }).await;
}

fn events() -> CloudEvents {
    CloudEvents::on("SHOP", "shop.things.*")
}

#[tokio::test]
async fn a_publisher_that_knows_nothing_of_nudge_is_followed_in_both_modes() {
    let nats = Nats::start().await;
    let broker = nats.broker("shop").await;
    shop(&broker, RetentionPolicy::Limits).await;
    let owner = Owner::start_silent().await;
    owner.put("a b/가", json!({"n": 1})).await;
    owner.put("2", json!({"n": 1})).await;
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "7"),
        ("ce-source", "/shop"),
        ("ce-type", "com.shop.ThingAdded"),
        ("ce-subject", "a%20b/%EA%B0%80"),
    ];
    // Whatever it says about the thing is from before.
    publish(&broker, "shop.things.added", &binary, &json!({"n": 0})).await;
    let model = ReadModel::new().await.hears(events());
    let copy = model.start(&broker, &owner).await;
    shows(&copy, "a b/가", Some(json!({"n": 1}))).await;
    let structured = json!({
        "specversion": "1.0", "id": "8", "source": "/shop", "type": "com.shop.ThingChanged", "subject": "2",
    });
    let media_type = [("Content-Type", "application/cloudevents+json")];
    publish(&broker, "shop.things.changed", &media_type, &structured).await;
    shows(&copy, "2", Some(json!({"n": 1}))).await;
    owner.put("2", json!({"n": 2})).await;
    owner.delete("a b/가").await;
    publish(&broker, "shop.things.changed", &media_type, &structured).await;
    publish(&broker, "shop.things.removed", &binary, &json!(null)).await;
    shows(&copy, "2", Some(json!({"n": 2}))).await;
    shows(&copy, "a b/가", None).await;
    assert_eq!(copy.metric("nudge_malformed_total").await, 0);
}

#[tokio::test]
async fn an_event_that_names_nobody_is_counted_and_holds_up_none_and_others_subjects_are_not_read()
{
    let nats = Nats::start().await;
    let broker = nats.broker("shop").await;
    shop(&broker, RetentionPolicy::Limits).await;
    let owner = Owner::start_silent().await;
    owner.put("1", json!({"n": 1})).await;
    publish(&broker, "shop.prices", &[("ce-subject", "1")], &json!({})).await;
    publish(&broker, "shop.things.x", &[("ce-type", "x")], &json!({"subject": "1"})).await;
    publish(&broker, "shop.things.x", &[("ce-subject", "1")], &json!({})).await;
    let model = ReadModel::new().await.hears(events());
    let copy = model.start(&broker, &owner).await;
    shows(&copy, "1", Some(json!({"n": 1}))).await;
    assert_eq!(copy.metric("nudge_malformed_total").await, 1);
    assert_eq!(copy.metric("nudge_received_total").await, 1);
}

#[tokio::test]
async fn a_stream_whose_messages_others_would_miss_is_not_read() {
    let nats = Nats::start().await;
    let broker = nats.broker("shop").await;
    shop(&broker, RetentionPolicy::WorkQueue).await;
    let owner = Owner::start_silent().await;
    publish(&broker, "shop.things.x", &[("ce-subject", "1")], &json!({})).await;
    let model = ReadModel::new().await.hears(events());
    let copy = model.start(&broker, &owner).await;
    eventually("it says why", || async {
        let status = copy.status().await;
        let error = status["last_error"].as_str()?;
        error.contains("would take them away").then_some(())
    })
    .await;
    let mut stream = broker.jetstream.get_stream("SHOP").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    assert_eq!(stream.consumer_names().count().await, 0);
}

#[derive(Serialize, Deserialize)]
struct Thing {
    n: i64,
}

#[tokio::test]
async fn events_of_what_is_not_followed_are_refused_at_the_start() {
    let nats = Nats::start().await;
    let broker = nats.broker("shop").await;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("x.db").display());
    let db = Database::open(&url, Durability::Refillable).await.unwrap();
    let builder = Subscriber::builder("shop", &db, &broker)
        .follow("thing", "http://127.0.0.1:1", Mirror::<Thing>::table("thing"))
        .cloud_events("order", CloudEvents::on("ORDERS", ">"));
    let stop = CancellationToken::new();
    let refused = builder.start(stop).await.unwrap_err();
    assert!(matches!(&refused, StartError::NotFollowed(entity) if entity == "order"), "{refused}");
}

/// And a subscriber that reads them as events comes to the same, without the version.
#[tokio::test]
async fn an_owners_notifications_are_cloud_events_if_it_is_told_so() {
    let nats = Nats::start().await;
    let broker = nats.broker("owner").await;
    let source = EventSource::new("/things").unwrap();
    let owner = Owner::start_silent().await;
    let stop = CancellationToken::new();
    let relay = owner.publisher.clone().cloud_events(source).spawn_relay(&broker, stop.clone());
    let token = owner.put("a b", json!({"n": 1})).await;
    let message = eventually("it is published", || async {
        let stream = broker.jetstream.get_stream("CHANGES_thing").await.ok()?;
        stream.get_last_raw_message_by_subject("changes.thing.a%20b").await.ok()
    })
    .await;
    let mut headers: Vec<_> = message
        .headers
        .iter()
        .map(|(name, values)| {
            (AsRef::<str>::as_ref(name).to_owned(), values[0].as_str().to_owned())
        })
        .collect();
    headers.sort();
    let version = token.version.to_string();
    let expected = [
        ("Nudge-Version", version.as_str()),
        ("ce-datacontenttype", "application/json"),
        ("ce-id", &format!("a%2520b@{version}")),
        ("ce-source", "/things"),
        ("ce-specversion", "1.0"),
        ("ce-subject", "a%20b"),
        ("ce-type", "nudge.thing.updated"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(message.payload, br#"{"id":"a b","change":"updated"}"#[..]);
    let events = CloudEvents::on("CHANGES_thing", "changes.thing.*");
    let copy = ReadModel::new().await.hears(events).start(&broker, &owner).await;
    shows(&copy, "a b", Some(json!({"n": 1}))).await;
    stop.cancel();
    relay.await.unwrap();
}
