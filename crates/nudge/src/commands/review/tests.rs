use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method as Verb, StatusCode as Status, Uri},
    response::{IntoResponse, Response as Answer},
    routing::any,
};
use clap::Parser;
use nudge_runtime::Problem;
use parking_lot::Mutex;

use super::*;
use crate::stub::{self, Stubs};

const STORED: &str = r#"{"id":"r-1","store_id":"42","rating":5,"text":"좋아요\n또 올게요","author":"민서",
    "created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}"#;

type Log = Arc<Mutex<Vec<(Verb, String, Value)>>>;

/// An owner of one review, which notes what it is asked to write.
async fn owner() -> (Stubs, Log) {
    let log = Log::default();
    let noted = log.clone();
    let handler = async move |verb: Verb, uri: Uri, headers: HeaderMap, body: Bytes| -> Answer {
        if verb == Verb::GET {
            return match uri.path() {
                "/reviews/r-1" => ([("ETag", "\"16\"")], STORED).into_response(),
                "/stores/42/reviews" => {
                    format!(r#"{{"items":[{STORED}],"next":"r-1"}}"#).into_response()
                }
                _ => Problem::new(Status::NOT_FOUND, "no such review").into_response(),
            };
        }
        if verb == Verb::PUT {
            assert_eq!(headers["if-match"], "\"16\"");
        }
        let body = serde_json::from_slice(&body).unwrap_or_default();
        noted.lock().push((verb, uri.path().to_owned(), body));
        ([("ETag", "\"17\""), ("Nudge-Token", "review/r-1@17")], "{}").into_response()
    };
    let router = Router::new().fallback(any(handler));
    (stub::start([(OWNER, router)]).await, log)
}

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    verb: ReviewVerb,
}

fn parsed(words: &[&str]) -> Result<ReviewVerb, clap::Error> {
    Program::try_parse_from([&["review"], words].concat()).map(|program| program.verb)
}

#[tokio::test]
async fn a_review_is_written_changed_in_part_and_deleted() {
    let (stub, log) = owner().await;
    let verb = async |words: &[&str]| {
        run(stub.api.clone(), parsed(words).unwrap(), true).await.unwrap();
        log.lock().pop().unwrap()
    };
    let draft = ["add", "42", "--rating", "4", "--text", "맛있어요", "--author", "지우"];
    let written = json!({"rating": 4, "text": "맛있어요", "author": "지우"});
    assert_eq!(verb(&draft).await, (Verb::POST, "/stores/42/reviews".into(), written));
    let changed = json!({"rating": 3, "text": "좋아요\n또 올게요", "author": "민서"});
    let put = verb(&["put", "r-1", "--rating", "3"]).await;
    assert_eq!(put, (Verb::PUT, "/reviews/r-1".into(), changed));
    assert_eq!(verb(&["rm", "r-1"]).await, (Verb::DELETE, "/reviews/r-1".into(), Value::Null));
}

#[tokio::test]
async fn reviews_are_shown_and_what_is_not_there_is_told() {
    let (stub, log) = owner().await;
    for words in [&["get", "r-1"][..], &["ls", "42", "--limit", "1"]] {
        run(stub.api.clone(), parsed(words).unwrap(), false).await.unwrap();
    }
    let lines = show(&serde_json::from_str(STORED).unwrap());
    assert_eq!(lines, ["★★★★★ 민서 of 42, r-1", "  좋아요", "  또 올게요"]);
    for words in [&["get", "r-2"][..], &["put", "r-2", "--rating", "3"]] {
        let refused = run(stub.api.clone(), parsed(words).unwrap(), false).await.unwrap_err();
        assert!(refused.to_string().contains("no such review"), "{refused}");
    }
    assert!(log.lock().is_empty(), "nothing is written");
}

#[test]
fn what_cannot_be_a_review_is_refused_before_anything_is_sent() {
    for words in [
        &["add", "42"][..],
        &["add", "42", "--rating", "6", "--text", "a", "--author", "b"],
        &["put", "r-1"],
        &["put", "r-1", "--rating", "0"],
        &["ls", "42", "--limit", "101"],
    ] {
        parsed(words).unwrap_err();
    }
}
