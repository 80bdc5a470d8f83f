use axum::{Router, http::StatusCode as Status, routing::get};
use nudge_runtime::{Problem, problem::FieldError as Field};

use super::*;
use crate::stub;

#[tokio::test]
async fn nothing_listening_asks_whether_the_demo_runs() {
    let api = stub::nobody().await;
    let request = api.request(Method::GET, api.of(Service::StoreInfo), "/stores");
    let failure = api.expect(api.of(Service::StoreInfo), request).await.unwrap_err();
    let address = api.of(Service::StoreInfo).address();
    let line = format!("nothing answers on {address}: is \"make demo\" running?");
    assert_eq!(failure, Failure::Failed(line));
}

#[tokio::test]
async fn of_a_service_that_is_not_of_the_demo_nobody_is_asked_to_make_it() {
    let (api, peer) = (stub::nobody().await, Peer::new("ads", "http://127.0.0.1:1"));
    let failure = api.expect(peer, api.request(Method::GET, peer, "/")).await.unwrap_err();
    assert_eq!(failure, Failure::failed("ads: nothing answers on 127.0.0.1:1"));
}

async fn refused_with(problem: Problem) -> String {
    let router = Router::new().route("/stores", get(async move || problem.clone()));
    let stub = stub::start([(Service::StoreInfo, router)]).await;
    let request = stub.api.request(Method::GET, stub.api.of(Service::StoreInfo), "/stores");
    stub.api.expect(stub.api.of(Service::StoreInfo), request).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_problem_becomes_one_line_with_its_detail() {
    let line = refused_with(Problem::new(Status::GONE, "store 42 was\ndeleted")).await;
    assert_eq!(line, "store 42 was deleted (store-info answered 410)");
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let wrong = |field: &str, detail: &str| Field { field: field.into(), detail: detail.into() };
    let problem =
        Problem::fields(vec![wrong("name", "must not be empty"), wrong("open", "must be true")]);
    let line = refused_with(problem).await;
    assert_eq!(line, "name: must not be empty; open: must be true (store-info answered 422)");
}

#[test]
fn an_answer_that_is_no_problem_still_says_something() {
    let line = describe(Peer::of(Service::Search, 1), StatusCode::BAD_GATEWAY, b"<html>");
    assert_eq!(line, "Bad Gateway (search answered 502)");
}

#[test]
fn ids_are_encoded_into_paths_and_never_spliced() {
    let path = |id: &str| store_path(&EntityId::new(id).unwrap());
    assert_eq!(path("a/b?c#d").unwrap(), "/stores/a%2Fb%3Fc%23d");
    assert_eq!(path("a.b").unwrap(), "/stores/a%2Eb");
    assert!(matches!(path(".."), Err(Failure::Usage(_))));
}
