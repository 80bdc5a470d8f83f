use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::Query,
    http::{Method as Verb, StatusCode, Uri},
    routing::get,
};
use parking_lot::Mutex;

use super::*;
use crate::stub::{self, Stubs};

type Log = Arc<Mutex<Vec<String>>>;

/// A search with two pages of rows, and a review without any.
async fn subscribers_with_rows() -> (Stubs, Log) {
    let page = async |Query(query): Query<HashMap<String, String>>| {
        Json(match query.get("after").map(String::as_str) {
            None => json!({"items": [{"entity": "store", "id": "a/b", "floor": 7,
                "error": "no such\ncolumn", "attempts": 3,
                "first_failed_at": "2026-01-01T00:00:00Z",
                "last_failed_at": "2026-01-01T00:00:00Z", "next_at": null}],
                "next": {"entity": "store", "after": "a/b"}}),
            Some(_) => json!({"items": [{"entity": "store", "id": "c", "floor": 8, "error": "",
                "attempts": 1, "next_at": "2026-01-01T00:01:00Z"}], "next": null}),
        })
    };
    let log = Log::default();
    let noted = log.clone();
    let note = async move |verb: Verb, uri: Uri| {
        noted.lock().push(format!("{verb} {uri}"));
        StatusCode::ACCEPTED
    };
    let empty = async || Json(json!({"items": [], "next": null}));
    let search = Router::new().route(PATH, get(page)).fallback(note);
    let review = Router::new().route(PATH, get(empty));
    (stub::start([(Service::Search, search), (Service::Review, review)]).await, log)
}

fn chosen(entity: Option<&str>, id: Option<&str>, all: bool) -> Chosen {
    let entity = entity.map(|entity| entity.parse().unwrap());
    let which = Which { subscriber: "all".into(), entity, id: id.map(|id| id.parse().unwrap()) };
    Chosen { which, all }
}

#[tokio::test]
async fn every_page_is_listed() {
    let (stub, _) = subscribers_with_rows().await;
    let rows = list(&stub.api, &chosen(None, None, true).which).await.unwrap();
    let lines = show(&rows, "2026-01-01T00:00:30Z".parse().unwrap());
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[1].ends_with("30.0 s ago  only by replay  no such column"), "{lines:#?}");
    assert!(lines[2].contains("in 30.0 s"), "{lines:#?}");
}

#[tokio::test]
async fn one_is_replayed_under_its_encoded_id() {
    let (stub, log) = subscribers_with_rows().await;
    let chosen = chosen(Some("store"), Some("a/b"), false);
    act(&stub.api, Action::Replay, chosen, false).await.unwrap();
    assert_eq!(*log.lock(), ["POST /nudge/v1/dead-letters/store/a%2Fb/replay"]);
}

#[tokio::test]
async fn all_are_discarded_only_when_that_is_said() {
    let (stub, log) = subscribers_with_rows().await;
    let vague = act(&stub.api, Action::Discard, chosen(None, None, false), false).await;
    assert!(matches!(vague, Err(Failure::Usage(_))), "{vague:?}");
    assert!(log.lock().is_empty());
    act(&stub.api, Action::Discard, chosen(None, None, true), true).await.unwrap();
    assert_eq!(log.lock().len(), 2);
}

#[tokio::test]
async fn one_that_is_not_there_is_a_failure() {
    let (stub, _) = subscribers_with_rows().await;
    let missing = act(&stub.api, Action::Replay, chosen(Some("store"), Some("x"), false), false);
    assert_eq!(missing.await, Err(Failure::failed("there is no such dead letter")));
}
