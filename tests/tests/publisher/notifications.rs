//! What is published: subject, body, headers, number, and the kind of stream.

use nudge_protocol::{Change, EntityName, subject};
use nudge_publisher::{Publisher, relay::MAX_ROWS_PER_ROUND};
use nudge_tests::{Nats, Owner, eventually, id};
use serde_json::json;

use crate::publisher::support::{
    Message, Relay, last_seq, message, messages, owner_of, published, row, rows, shown, stream,
};

/// More than a relay publishes in two rounds.
const MANY: usize = 4_500;
/// As many as a relay publishes in one round.
const ROUND: usize = MAX_ROWS_PER_ROUND;

#[tokio::test]
async fn a_notification_is_an_id_and_a_change_and_a_version_and_nothing_else() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    for change in [Change::Created, Change::Updated, Change::Deleted] {
        let mut tx = owner.publisher.begin().await.unwrap();
        let version = owner.publisher.record(&mut tx, &id("a.42"), change).await.unwrap();
        owner.publisher.commit(tx).await.unwrap();
        published(&owner.db).await;
        let expected = Message {
            subject: "changes.thing.a%2E42".to_owned(),
            seq: row(&owner.db, "a.42").await.published_seq,
            headers: vec![("Nudge-Version".to_owned(), version.to_string())],
            body: format!(r#"{{"id":"a.42","change":"{}"}}"#, change.as_str()),
        };
        assert_eq!(messages(&nats).await, [expected]);
    }
}

#[tokio::test]
async fn the_stream_is_what_the_design_says_field_by_field() {
    let nats = Nats::start().await;
    let owner = owner_of(&nats.broker("things").await, &["42"]).await;
    let stream = stream(&nats).await;
    let config = serde_json::to_value(stream.get_info().await.unwrap().config).unwrap();
    for (field, expected) in [
        ("name", json!("CHANGES_thing")),
        ("subjects", json!(["changes.thing.*"])),
        ("retention", json!("limits")),
        ("storage", json!("file")),
        ("num_replicas", json!(1)),
        ("max_msgs_per_subject", json!(1)),
        ("max_msgs", json!(-1)),
        ("max_age", json!(0)),
        ("max_consumers", json!(-1)),
        ("discard", json!("new")),
        ("max_bytes", json!(1_073_741_824_u64)),
        ("max_msg_size", json!(4096)),
        ("allow_direct", json!(true)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
    ] {
        assert_eq!(config[field], expected, "{field}");
    }
    // Absent means off.
    for field in ["discard_new_per_subject", "no_ack", "sealed", "allow_rollup_hdrs", "republish"] {
        assert_eq!(config[field], json!(null), "{field}");
    }
    assert!(stream.purge().await.is_err(), "a notification can be purged");
    let seq = row(&owner.db, "42").await.published_seq;
    assert!(stream.delete_message(seq).await.is_err(), "a notification can be deleted");
}

#[tokio::test]
async fn a_hundred_edits_leave_one_notification() {
    let nats = Nats::start().await;
    let owner = owner_of(&nats.broker("things").await, &["other", "42"]).await;
    let before = last_seq(&nats).await;
    for n in 0..100 {
        owner.put("42", json!({ "n": n })).await;
        published(&owner.db).await;
    }
    assert_eq!(last_seq(&nats).await, before + 100, "each edit was published");
    shown(&nats, &owner.db).await;
    assert_eq!(stream(&nats).await.get_info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn changes_made_while_no_relay_runs_become_one_notification_of_the_newest() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    for n in 0..50 {
        owner.put("42", json!({ "n": n })).await;
    }
    let newest = owner.delete("42").await.version;
    let relay = Relay::start(&owner.db, &nats.broker("things").await).await;
    published(&owner.db).await;
    let message = message(&nats, "42").await;
    assert_eq!((message.version(), message.change()), (newest.get(), "deleted".to_owned()));
    assert_eq!(last_seq(&nats).await, 1);
    assert_eq!(relay.publisher.health().published, 1);
}

#[tokio::test]
async fn every_id_is_published_on_a_subject_that_names_it() {
    let long = "가".repeat(66) + "ab";
    assert_eq!(long.len(), 200);
    let ids = [
        ".",
        "..",
        " ",
        "a b",
        "*",
        ">",
        "a.*",
        "/",
        "a/b",
        "%",
        "%2E",
        "$JS.API",
        "\"",
        "\\",
        "'",
        "강남 1호점",
        "e\u{301}",
        "\u{e9}",
        "\u{1f980}",
        "null",
        "-_",
        &long,
    ];
    let nats = Nats::start().await;
    let owner = owner_of(&nats.broker("things").await, &ids).await;
    let messages = messages(&nats).await;
    assert_eq!(messages.len(), ids.len());
    for message in messages {
        let body: serde_json::Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(body["id"], message.id());
        assert!(ids.contains(&message.id().as_str()), "{message:?}");
        let token = subject::encode_token(&id(&message.id()));
        assert_eq!(message.subject, format!("changes.thing.{token}"));
        assert!(message.subject.is_ascii() && !message.subject.contains(['*', '>', ' ']));
    }
    shown(&nats, &owner.db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_pending_rows_are_published_in_rounds_until_none_is_left() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    record_many(&owner.publisher, MANY).await;
    let relay = Relay::start(&owner.db, &nats.broker("things").await).await;
    published(&owner.db).await;
    assert_eq!(rows(&owner.db).await.len(), MANY);
    assert_eq!(messages(&nats).await.len(), MANY);
    assert_eq!(last_seq(&nats).await, MANY as u64, "none is published twice");
    assert_eq!(relay.publisher.health().published, MANY as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_several_entities_share_a_connection_without_starving_each_other() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let mut publishers = Vec::new();
    for name in ["bread", "cake", "dumpling", "egg", "fig", "grape", "honey", "icing"] {
        let entity = EntityName::new(name).unwrap();
        let publisher = Publisher::open(&owner.db, entity).await.unwrap();
        record_many(&publisher, ROUND).await;
        publishers.push(publisher);
    }
    for publisher in &publishers {
        publisher.spawn_relay(&broker, stop.clone());
    }
    eventually("every entity is published", || async {
        let all = |publisher: &Publisher| publisher.health().published == ROUND as u64;
        publishers.iter().all(all).then_some(())
    })
    .await;
}

async fn record_many(publisher: &Publisher, many: usize) {
    let mut tx = publisher.begin().await.unwrap();
    let change = |n: usize| (id(&format!("{n}")), Change::Created);
    let changes: Vec<_> = (0..many).map(change).collect();
    publisher.record_all(&mut tx, &changes).await.unwrap();
    publisher.commit(tx).await.unwrap();
}
