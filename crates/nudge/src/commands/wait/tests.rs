use axum::{Json, Router, extract::Query, http::StatusCode as Status, routing::get};
use std::collections::HashMap;

use super::*;
use crate::stub;

fn token() -> WriteToken {
    "store/a%2Fb@17".parse().unwrap()
}

fn answering(status: u16, body: Value) -> Router {
    let handler = async move |Query(query): Query<HashMap<String, String>>| {
        assert_eq!(query["token"], "store/a%2Fb@17");
        (Status::from_u16(status).unwrap(), Json(body.clone()))
    };
    Router::new().route("/nudge/v1/wait", get(handler))
}

#[tokio::test]
async fn everyone_who_has_it_is_a_success() {
    let search = answering(200, json!({"version": 18, "applied_at": "2026-01-01T00:00:00Z"}));
    let review = answering(200, json!({"version": 17}));
    let stub = stub::start([(Service::Search, search), (Service::Review, review)]).await;
    let services = Service::SUBSCRIBERS;
    let timeout = Duration::from_millis(50);
    let waited = wait_for(&stub.api, &services, &token(), timeout).await.unwrap();
    let versions: Vec<_> = waited.iter().map(|one| one.version.map(Version::get)).collect();
    assert_eq!(versions, [Some(18), Some(17)]);
    assert_eq!(check(&waited, timeout), Ok(()));
}

#[tokio::test]
async fn whoever_is_late_is_named_and_the_exit_status_says_so() {
    let search = answering(200, json!({"version": 17}));
    let review = answering(504, json!({"status": 504, "version": 9}));
    let stub = stub::start([(Service::Search, search), (Service::Review, review)]).await;
    let args = WaitArgs { token: token(), timeout_ms: 5, subscriber: "all".into() };
    let failure = run(stub.api.clone(), args, true).await.unwrap_err();
    assert_eq!(failure, Failure::TimedOut("not applied by review within 5 ms".into()));
}

#[tokio::test]
async fn a_token_that_the_service_refuses_is_a_failure_of_its_own() {
    let refusing = answering(422, json!({"detail": "review is not followed"}));
    let stub = stub::start([(Service::Search, refusing)]).await;
    let args = WaitArgs { token: token(), timeout_ms: 5, subscriber: "search".into() };
    let failure = run(stub.api.clone(), args, false).await.unwrap_err();
    assert_eq!(failure, Failure::failed("review is not followed (search answered 422)"));
}
