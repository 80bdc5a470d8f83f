use axum::{
    Json, Router,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    client::Service,
    stub::{self, Stubs},
};

fn key(text: &str) -> Result<(String, String), String> {
    text.parse().map(|Key { entity, id }| (entity.to_string(), id.to_string()))
}

#[test]
fn an_id_is_given_as_it_is_or_as_a_token_has_it() {
    for (text, id) in [
        ("store/42", "42"),
        ("store/강남 1호점/별관", "강남 1호점/별관"),
        ("store/%EA%B0%80", "가"),
        ("store/100%", "100%"),
        ("store/a%20", "a "),
    ] {
        assert_eq!(key(text), Ok(("store".to_owned(), id.to_owned())), "{text}");
    }
    for text in ["42", "Store/42", "store/", "store/a\nb"] {
        assert!(key(text).is_err(), "{text}");
    }
}

const VERSION: u64 = 1_767_225_600_000_002;

fn owner(broker_answers: bool) -> Router {
    let at = "2026-01-01T00:00:00.000002Z";
    let recorded = json!({
        "version": VERSION, "deleted": false, "changed_at": at, "pending": false,
        "published_version": VERSION, "sequence": 4_711, "never_existed": false,
    });
    let message = json!({
        "sequence": 4_711, "version": VERSION, "published_at": "2026-01-01T00:00:00.001202Z",
    });
    let answer = match broker_answers {
        true => json!({
            "items": [{"id": "42", "recorded": recorded, "message": message}],
            "stream": {"last_sequence": 9_000},
        }),
        false => {
            json!({"items": [{"id": "42", "recorded": recorded, "message": null}], "stream": null})
        }
    };
    let metrics = "nudge_relay_pending{entity=\"store\"} 0\n";
    Router::new()
        .route("/metrics", get(async move || metrics))
        .route("/sync/v1/store/change-log", post(async move |_: Json<Value>| Json(answer)))
}

/// A subscriber that has this version, and is this far.
fn subscriber(version: u64, status: Value) -> Router {
    let mut entity = json!({
        "entity": "store", "connected": true, "caught_up": true, "breaker": "closed",
        "position": 9_000, "stream_pending": 0,
    });
    entity.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let status = json!({"service": "x", "entities": [entity]});
    let run = json!({
        "since": "2026-01-01T00:00:00.001502Z", "notifications": 12, "sequence": 4_711,
        "published_at": null, "asked_at": "2026-01-01T00:00:00.001802Z",
        "answered_at": "2026-01-01T00:00:00.003002Z", "version": version, "outcome": "applied",
        "ended_at": "2026-01-01T00:00:00.004402Z",
    });
    let applied = json!({
        "version": version, "deleted": false, "applied_at": "2026-01-01T00:00:00.004402Z",
    });
    let key = json!({"id": "42", "state": "idle", "applied": applied, "runs": [run]});
    Router::new().route("/nudge/v1/status", get(async move || Json(status))).route(
        "/nudge/v1/keys/store",
        post(async move |_: Json<Value>| Json(json!({ "items": [key] }))),
    )
}

async fn story(stub: &Stubs) -> Story {
    let (entity, id) = (EntityName::new("store").unwrap(), EntityId::new("42").unwrap());
    why::tell(&stub.api, "all", entity, id).await.unwrap()
}

fn plain(lines: Vec<String>) -> Vec<String> {
    lines.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect()
}

#[tokio::test]
async fn the_reason_is_marked_and_what_to_do_stands_below_it() {
    let stub = stub::start([
        (Service::StoreInfo, owner(true)),
        (Service::Search, subscriber(VERSION - 1, json!({"paused": true}))),
        (Service::Review, subscriber(VERSION, json!({}))),
    ])
    .await;
    let lines = plain(to_lines(&story(&stub).await));
    let text = lines.join("\n");
    assert_eq!(lines[0], "store/42 is late because of search.", "{text}");
    assert!(text.contains("\n▶ search      It has version"), "{text}");
    assert!(text.contains("\n              → nudge resume search\n"), "{text}");
    assert!(text.contains("Message 4,711 of 9,000, stored 1.2 ms after the commit."), "{text}");
    assert!(text.contains("12 notifications, 1 callback: received +1.5 ms"), "{text}");
    let width = |line: &String| console::measure_text_width(line);
    assert!(lines.iter().all(|line| width(line) <= WIDTH), "{text}");
    let args = WhyArgs { key: "store/42".parse().unwrap(), subscriber: "all".to_owned() };
    let failure = run(stub.api.clone(), args, false).await.unwrap_err();
    assert!(matches!(&failure, Failure::Failed(why) if why.contains("search")), "{failure}");
    let args = WhyArgs { key: "store/42".parse().unwrap(), subscriber: "review".to_owned() };
    run(stub.api.clone(), args, true).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_does_not_answer_makes_nothing_late() {
    let stub = stub::start([
        (Service::StoreInfo, owner(false)),
        (Service::Search, subscriber(VERSION, json!({}))),
        (Service::Review, subscriber(VERSION, json!({}))),
    ])
    .await;
    let story = story(&stub).await;
    assert!(story.equal && story.because.is_none());
    assert!(story.findings.iter().any(|finding| finding.reason == Reason::StreamUnknown));
}
