//! Invalid requests: the right 4xx, which names the field, and nothing written.

use nudge_runtime::body::MAX_BODY_BYTES;
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::api::support::{World, draft, send};

fn with(field: &str, value: Value) -> Value {
    let mut body = draft();
    body[field] = value;
    body
}

/// Bodies, and the fields that the problem must name.
fn wrong_bodies() -> Vec<(Value, Vec<&'static str>)> {
    vec![
        (with("rating", json!(0)), vec!["rating"]),
        (with("rating", json!(6)), vec!["rating"]),
        (with("rating", json!(-1)), vec!["rating"]),
        (with("rating", json!(4.5)), vec!["rating"]),
        (with("rating", json!("5")), vec!["rating"]),
        (with("rating", json!(null)), vec!["rating"]),
        (with("text", json!("")), vec!["text"]),
        (with("text", json!("가".repeat(2001))), vec!["text"]),
        (with("text", json!("a\u{0}")), vec!["text"]),
        (with("text", json!({})), vec!["text"]),
        (with("author", json!("  ")), vec!["author"]),
        (with("author", json!("가".repeat(51))), vec!["author"]),
        (with("author", json!("두\n줄")), vec!["author"]),
        (with("id", json!("mine")), vec!["id"]),
        (with("store_id", json!("other")), vec!["store_id"]),
        (json!({}), vec!["rating", "text", "author"]),
        (json!({"rating": 9, "text": 1, "stars": 5}), vec!["rating", "text", "author", "stars"]),
        (json!([]), vec!["body"]),
        (json!("review"), vec!["body"]),
        (json!(null), vec!["body"]),
    ]
}

#[tokio::test]
async fn each_wrong_body_names_its_fields_and_changes_nothing() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    let before = (world.get(&path).await.body, world.recorded().await);
    for (body, fields) in wrong_bodies() {
        for answer in [world.post("/stores/s/reviews", &body).await, world.put(&path, &body).await]
        {
            assert_eq!((answer.problem(), answer.wrong_fields()), (422, fields.clone()), "{body}");
        }
    }
    assert_eq!((world.get(&path).await.body, world.recorded().await), before);
    assert_eq!(world.rows().await, 1);
    world.stop().await;
}

#[tokio::test]
async fn bodies_that_are_not_json_or_too_large_change_nothing() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    let before = world.recorded().await;
    let large = with("text", json!("x".repeat(MAX_BODY_BYTES))).to_string();
    let json = "application/json";
    for (content_type, body, status, field) in [
        (json, "{".to_owned(), 400, "body"),
        (json, format!("{} trailing", draft()), 400, "body"),
        (json, r#"{"rating":5,"text":"\ud800","author":"a"}"#.to_owned(), 400, "body"),
        (json, String::new(), 400, "body"),
        (json, large, 413, "body"),
        ("text/plain", draft().to_string(), 415, "Content-Type"),
        ("application/xml", draft().to_string(), 415, "Content-Type"),
    ] {
        for (method, path) in [(Method::POST, "/stores/s/reviews"), (Method::PUT, path.as_str())] {
            let request = world.request(method, path).header(header::CONTENT_TYPE, content_type);
            let answer = send(request.body(body.clone())).await;
            assert_eq!((answer.problem(), answer.wrong_fields()), (status, vec![field]));
        }
    }
    assert_eq!((world.recorded().await, world.rows().await), (before, 1));
    world.stop().await;
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let world = World::with_open_store().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("after=yesterday", "after"),
        ("after=", "after"),
        ("before=x", "before"),
    ] {
        let answer = world.get(&format!("/stores/s/reviews?{query}")).await;
        assert_eq!((answer.problem(), answer.wrong_fields()), (400, vec![field]), "{query}");
    }
    let path = world.review(&draft()).await;
    // With a condition that cannot be parsed, no write gets through.
    for method in [Method::PUT, Method::DELETE] {
        let request = world.request(method, &path).header("If-Match", "not a tag").json(&draft());
        let answer = send(request).await;
        assert_eq!((answer.problem(), answer.wrong_fields()), (412, vec!["If-Match"]));
    }
    world.stop().await;
}

#[tokio::test]
async fn ids_that_cannot_be_and_paths_that_are_not_are_problems_too() {
    let world = World::start().await;
    let long = format!("/stores/{}/reviews", "x".repeat(201));
    for path in [long.as_str(), "/stores/a%0Ab/reviews", "/stores/%FF/reviews", "/reviews/%00"] {
        let answer = world.get(path).await;
        assert_eq!((answer.problem(), answer.wrong_fields()), (400, vec!["id"]), "{path}");
    }
    assert_eq!(world.get("/stores").await.problem(), 404);
    assert_eq!(world.get("/reviews/anything").await.problem(), 404);
    assert_eq!(world.delete("/stores/s/reviews").await.problem(), 405);
    assert_eq!(world.post("/reviews/anything", &draft()).await.problem(), 405);
    world.stop().await;
}
