//! Whatever happens to messages, and whatever someone puts on the wire, the copies end in the owner's state. The owner
//! here publishes nothing itself: every message comes from the test.

use std::{collections::HashMap, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use nudge_protocol::WriteToken;
use nudge_tests::{Copy, Fault, Nats, Owner, QUIET, Random, Wire, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_may_come_twice_and_in_any_order() {
    for seed in 1..=3 {
        let nats = Nats::start().await;
        let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
        let copy = Copy::start(&nats.broker("copies").await, &owner).await;
        let mut random = Random::new(seed);
        let mut tokens: Vec<WriteToken> = Vec::new();
        for _ in 0..4 {
            for _ in 0..40 {
                let id = format!("thing-{}", random.below(20));
                let token = match random.below(4) {
                    0 => owner.delete(&id).await,
                    _ => owner.put(&id, json!({"n": random.below(1_000_000)})).await,
                };
                tokens.push(token);
            }
            // Everything ever published is published again, newest or oldest first, some of it twice.
            let mut said = tokens.clone();
            said.extend(tokens.iter().filter(|_| random.below(3) == 0).cloned());
            random.shuffle(&mut said);
            for token in &said {
                wire.notify(token).await;
            }
        }
        copy.converged(&owner).await;
        copy.quiet().await;
        assert_eq!(copy.status().await["dead_letters"], 0, "seed {seed}");
        let mut newest = HashMap::new();
        for (id, version) in copy.applied() {
            let before = newest.insert(id.clone(), version);
            assert!(before < Some(version), "seed {seed}: {id} went back to {version}");
        }
    }
}

const TRUE_BODY: &str = r#"{"id":"{id}","change":"updated"}"#;

/// Broken, foreign and stale messages, each of which replaces a true notification in the stream: the thing's ID, the
/// version header and the body. `{id}`, `{old}` and `{new}` stand for the ID and for the versions of the copy and of
/// the owner.
const MALFORMED: &[(&str, Option<&str>, &str)] = &[
    ("an empty body", Some("{new}"), ""),
    ("garbage", Some("{new}"), "}{ \0 not json"),
    ("another shape", Some("{new}"), r#"["updated"]"#),
    ("another id", Some("{new}"), r#"{"id":"other","change":"updated"}"#),
    ("an unknown change", Some("{new}"), r#"{"id":"{id}","change":"renamed"}"#),
    ("garbage without a version", None, "garbage"),
    ("an empty version", Some(""), TRUE_BODY),
    ("a version in words", Some("seven"), TRUE_BODY),
    ("a negative version", Some("-1"), TRUE_BODY),
    ("a version beyond 2^53", Some("9007199254740992"), TRUE_BODY),
    ("a version that no clock has reached", Some("9007199254740991"), TRUE_BODY),
    ("a version beyond 64 bits", Some("99999999999999999999"), TRUE_BODY),
    ("a version of another kind", Some("1.5e3"), TRUE_BODY),
];
/// Well-formed messages that are not true.
const LEGAL: &[(&str, Option<&str>, &str)] = &[
    ("no version", None, TRUE_BODY),
    ("the version that is applied", Some("{old}"), TRUE_BODY),
    ("version 0", Some("0"), TRUE_BODY),
    ("a stale delete", Some("1"), r#"{"id":"{id}","change":"deleted"}"#),
    ("deleted", Some("{old}"), TRUE_BODY),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_replaced_a_true_notification_does_not_lose_the_change() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let accidents = || MALFORMED.iter().chain(LEGAL);
    let mut old = Vec::new();
    for (id, ..) in accidents() {
        let token = owner.put(id, json!("old")).await;
        wire.notify(&token).await;
        old.push(token.version.to_string());
    }
    copy.converged(&owner).await;
    let model = copy.stop().await;
    for ((id, version, body), old) in accidents().zip(old) {
        let token = match *id {
            "deleted" => owner.delete(id).await,
            _ => owner.put(id, json!("new")).await,
        };
        wire.notify(&token).await;
        let new = token.version.to_string();
        let version = version.map(|text| text.replace("{old}", &old).replace("{new}", &new));
        let (subject, body) = (Wire::subject(id), body.replace("{id}", id));
        let sent = wire.send(&subject, version.as_deref(), body.as_bytes());
        sent.await.expect("the stream takes it");
    }
    let binary = owner.put("binary", json!("new")).await;
    wire.notify(&binary).await;
    let sent = wire.send("changes.thing.binary", None, b"\x00\xff\xfe\x80").await;
    sent.expect("the stream takes it");
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    assert_eq!(copy.status().await["malformed"], MALFORMED.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_without_a_version_gets_a_second_look_and_no_third() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let known = owner.put("known", json!("old")).await;
    wire.notify(&known).await;
    copy.converged(&owner).await;
    assert_eq!(owner.times_asked("known"), 1, "a version saves the second look");
    let stale = owner.last_answer();
    owner.put("known", json!("new")).await;
    // A lagging replica answers the first call. No version shows that the answer is old.
    let first = AtomicUsize::new(1);
    owner.misbehave(move |ids| match ids.is_empty() || first.swap(0, Ordering::SeqCst) == 0 {
        true => None,
        false => Some(Fault::Replay(stale.clone())),
    });
    wire.announce("known", None).await;
    copy.converged(&owner).await;
    copy.quiet().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(owner.times_asked("known"), 1 + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_names_no_entity_is_counted_and_blocks_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let too_long = "a".repeat(201);
    let tokens = ["%FF", "%00", "%0A", "%C3%28", too_long.as_str()];
    for token in tokens {
        let subject = format!("changes.thing.{token}");
        let body = br#"{"id":"42","change":"updated"}"#;
        wire.send(&subject, Some("1"), body).await.expect("the stream takes it");
    }
    wire.notify(&owner.put("42", json!("good")).await).await;
    copy.converged(&owner).await;
    let last = wire.last_sequence().await;
    eventually("everything is acknowledged", || async {
        (copy.status().await["position"] == last).then_some(())
    })
    .await;
    assert_eq!(copy.status().await["malformed"], tokens.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_message_is_refused_and_replaces_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    wire.notify(&owner.put("42", json!("good")).await).await;
    let (subject, large) = (Wire::subject("42"), "9".repeat(5_000));
    assert!(wire.send(&subject, None, large.as_bytes()).await.is_err());
    assert!(wire.send(&subject, Some(&large), b"").await.is_err());
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    assert_eq!(copy.status().await["malformed"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_every_kind_arrive_whole() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let longest = format!("{}ab", "가".repeat(66));
    assert_eq!(longest.len(), 200);
    let ids = [
        ".",
        "..",
        "a.b",
        "*",
        ">",
        "a.*",
        "a.>",
        " ",
        "a b",
        " a ",
        "a/b",
        "/",
        "//",
        "%",
        "%2E",
        "a%2Fb",
        "강남 식당",
        "\u{ac00}",
        "\u{1100}\u{1161}",
        "🍜",
        "?",
        "#",
        "a?b=c&d",
        "\\",
        "'",
        "\"",
        "';--",
        "{\"id\":\"1\"}",
        "a@b",
        "a,b",
        "-",
        "_",
        "0",
        "null",
        "A",
        "a",
        longest.as_str(),
    ];
    for id in ids {
        owner.put(id, json!({"id": id})).await;
    }
    copy.converged(&owner).await;
    // In a URL, an encoded dot is a dot, so these two can only be asked for with `wait`.
    for id in ids.iter().filter(|id| !matches!(**id, "." | "..")) {
        let path = nudge_protocol::subject::encode_token(&nudge_tests::id(id));
        let applied = copy.get(&format!("applied/thing/{path}")).await;
        assert_eq!(applied["deleted"], false, "{id:?}: {applied}");
    }
    for id in ids.iter().step_by(2) {
        owner.delete(id).await;
    }
    copy.converged(&owner).await;
    assert_eq!(copy.status().await["applied"], ids.len());
    assert_eq!(copy.status().await["malformed"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_above_the_owners_answer_costs_callbacks_and_withholds_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let token = owner.put("42", json!("first")).await;
    let ahead = token.version.get() + 2_000_000;
    wire.announce("42", Some(&ahead.to_string())).await;
    copy.converged(&owner).await;
    let parked = eventually("the key is parked", || async {
        copy.get("dead-letters").await["items"].get(0).cloned()
    })
    .await;
    assert_eq!(parked["floor"], ahead);
    assert!(parked["next_at"].is_string(), "it is tried again: {parked}");
    assert!(owner.times_asked("42") > 2);
    let token = eventually("the owner gets there", || async {
        let token = owner.put("42", json!("second")).await;
        (token.version.get() >= ahead).then_some(token)
    })
    .await;
    wire.notify(&token).await;
    copy.wait(&token).await;
    eventually("the row closes", || async {
        let items = copy.get("dead-letters").await["items"].clone();
        (items == json!([])).then_some(())
    })
    .await;
}
