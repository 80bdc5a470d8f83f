use axum::{Json, Router, extract::Query, http::StatusCode as Status, routing::get};
use std::collections::HashMap;

use super::*;
use crate::{client::Service, stub};

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
    let timeout = Duration::from_millis(50);
    let waited = wait_for(&stub.api, "all", &[token()], timeout).await.unwrap();
    let versions: Vec<_> = waited.iter().map(|one| one.version.map(Version::get)).collect();
    assert_eq!(versions, [Some(18), Some(17)]);
    assert_eq!(check(&waited, timeout), Ok(()));
}

#[tokio::test]
async fn whoever_is_late_is_named_and_the_exit_status_says_so() {
    let search = answering(200, json!({"version": 17}));
    let review = answering(504, json!({"status": 504, "version": 9}));
    let stub = stub::start([(Service::Search, search), (Service::Review, review)]).await;
    let args = WaitArgs { tokens: vec![token()], timeout_ms: 5, subscriber: "all".into() };
    let failure = run(stub.api.clone(), args, true).await.unwrap_err();
    assert_eq!(failure, Failure::TimedOut("not applied by review within 5 ms".into()));
}

#[tokio::test]
async fn a_token_that_the_service_refuses_is_a_failure_of_its_own() {
    let refusing = answering(422, json!({"detail": "review is not followed"}));
    let stub = stub::start([(Service::Search, refusing)]).await;
    let args = WaitArgs { tokens: vec![token()], timeout_ms: 5, subscriber: "search".into() };
    let failure = run(stub.api.clone(), args, false).await.unwrap_err();
    assert_eq!(failure, Failure::failed("review is not followed (search answered 422)"));
}

/// Has what is asked for of these kinds of entity, and follows no others.
fn following(entities: &'static [&'static str]) -> Router {
    let handler = async move |Query(query): Query<HashMap<String, String>>| {
        let token: WriteToken = query["token"].parse().unwrap();
        let follows = entities.contains(&token.entity.as_str());
        let status = if follows { Status::OK } else { Status::NOT_FOUND };
        (status, Json(json!({ "version": token.version })))
    };
    Router::new().route("/nudge/v1/wait", get(handler))
}

#[tokio::test]
async fn writes_of_several_entities_are_waited_for_where_they_are_followed() {
    let search = following(&["store"]);
    let review = following(&["store", "review"]);
    let stub = stub::start([
        (Service::StoreInfo, Router::new()),
        (Service::Search, search),
        (Service::Review, review),
    ])
    .await;
    let tokens = ["store/42@17", "review/7@18"].map(|token| token.parse().unwrap());
    let waited = wait_for(&stub.api, "all", &tokens, Duration::from_millis(50)).await.unwrap();
    let lines = to_lines(&waited, true);
    let said: Vec<_> = lines.iter().map(|line| line.split("  after").next().unwrap()).collect();
    let expected = [
        "store/42@17  search  applied",
        "store/42@17  review  applied",
        "review/7@18  review  applied",
    ];
    assert_eq!(said, expected);
    let args = |tokens: &[WriteToken]| WaitArgs {
        tokens: tokens.to_vec(),
        timeout_ms: 5,
        subscriber: "search".into(),
    };
    let failure = run(stub.api.clone(), args(&tokens), false).await.unwrap_err();
    assert_eq!(failure, Failure::failed("review is not followed by search"));
    let many = vec![token(); MAX_TOKENS + 1];
    let failure = run(stub.api.clone(), args(&many), false).await.unwrap_err();
    assert!(matches!(failure, Failure::Usage(_)), "{failure}");
}
