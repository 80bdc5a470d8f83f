use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method as Verb, StatusCode as Status},
    response::{IntoResponse, Response as Answer},
    routing::any,
};
use nudge_runtime::Problem;
use parking_lot::Mutex;

use super::*;
use crate::stub::{self, Stubs};

type Log = Arc<Mutex<Vec<(Verb, String)>>>;

/// An owner that holds one store, or none, and notes what it is asked to write.
async fn owner(exists: bool) -> (Stubs, Log) {
    let log = Log::default();
    let noted = log.clone();
    let handler = async move |verb: Verb, headers: HeaderMap, body: Bytes| -> Answer {
        let written = [("ETag", "\"17\""), ("Nudge-Token", "store/a%2Fb@17")];
        match (&verb, exists) {
            (&Verb::GET, true) => {
                return ([("ETag", "\"16\"")], r#"{"id":"a/b","name":"달빛"}"#).into_response();
            }
            (&Verb::GET | &Verb::PATCH | &Verb::DELETE, false) => {
                return Problem::new(Status::NOT_FOUND, "there is no such store").into_response();
            }
            (&Verb::PATCH, true) => {
                assert_eq!(headers["content-type"], "application/merge-patch+json");
            }
            _ => {}
        }
        let body = String::from_utf8(body.to_vec()).unwrap();
        noted.lock().push((verb, body));
        (if exists { Status::OK } else { Status::CREATED }, written, "").into_response()
    };
    let router = Router::new().route("/stores/{id}", any(handler));
    (stub::start([(OWNER, router)]).await, log)
}

fn args(file: Option<String>, fields: &[&str]) -> PutArgs {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: PutArgs,
    }
    let program = <Program as clap::Parser>::try_parse_from([&["put", "a/b"], fields].concat());
    PutArgs { file, ..program.unwrap().args }
}

#[tokio::test]
async fn fields_patch_what_exists_and_make_what_does_not() {
    for (exists, verb) in [(true, Verb::PATCH), (false, Verb::PUT)] {
        let (stub, log) = owner(exists).await;
        put(&stub.api, args(None, &["--name", "달빛", "--open", "false"]), true).await.unwrap();
        let expected = (verb, r#"{"name":"달빛","open":false}"#.to_owned());
        let (verb, body) = log.lock().pop().unwrap();
        let sent: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((verb, sent.to_string()), expected);
    }
}

#[tokio::test]
async fn a_file_replaces_the_whole_store_under_the_id_that_was_given() {
    let (stub, log) = owner(true).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"id":"other","name":"달빛"}"#).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    put(&stub.api, args(Some(path), &[]), false).await.unwrap();
    let (verb, body) = log.lock().pop().unwrap();
    assert_eq!(verb, Verb::PUT);
    let sent: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(sent, json!({"id": "a/b", "name": "달빛"}));
}

#[tokio::test]
async fn without_a_field_nothing_is_sent() {
    let (stub, log) = owner(true).await;
    let failure = put(&stub.api, args(None, &[]), false).await.unwrap_err();
    assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
    assert!(log.lock().is_empty());
}

#[tokio::test]
async fn an_unknown_store_cannot_be_removed_or_shown() {
    let (stub, _) = owner(false).await;
    let id = EntityId::new("a/b").unwrap();
    let expected = Failure::failed("there is no such store (store-info answered 404)");
    let removed = remove(&stub.api, &id, WaitFlag { wait: false }, false).await;
    assert_eq!(removed, Err(expected.clone()));
    assert_eq!(get(&stub.api, &id, true).await, Err(expected));
}

#[tokio::test]
async fn files_that_are_missing_or_no_json_are_named() {
    let (stub, _) = owner(true).await;
    let failure = put(&stub.api, args(Some("/nowhere".into()), &[]), false).await.unwrap_err();
    assert!(failure.to_string().starts_with("cannot read /nowhere: "), "{failure}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let failure = put(&stub.api, args(Some(path), &[]), false).await.unwrap_err();
    assert!(failure.to_string().starts_with("the file is not JSON: "), "{failure}");
}

#[tokio::test]
async fn a_page_of_stores_begins_after_the_id_and_is_as_long_as_asked_for() {
    let asked = Log::default();
    let noted = asked.clone();
    let handler = async move |verb: Verb, uri: axum::http::Uri| {
        noted.lock().push((verb, uri.query().unwrap_or_default().to_owned()));
        r#"{"items":[{"id":"a/c","name":"달빛","open":true}],"next":"a/c"}"#
    };
    let router = Router::new().route("/stores", any(handler));
    let stub = stub::start([(OWNER, router)]).await;
    for json in [false, true] {
        let after = Some(EntityId::new("a/b&c").unwrap());
        list(&stub.api, LsArgs { after, limit: 2 }, json).await.unwrap();
        let expected = (Verb::GET, "after=a%2Fb%26c&limit=2".to_owned());
        assert_eq!(asked.lock().pop().unwrap(), expected);
    }
}
