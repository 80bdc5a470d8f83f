//! A source that fails, is slow, or answers nonsense: the list comes from what is at hand, and says so.

use std::time::Duration;

use axum::http::header::{LOCATION, RETRY_AFTER};
use nudge_testbed::{eventually, ports::free_port};
use serde_json::{Value, json};
use storefront::source::Limits;

use crate::support::{Way, World, limits};

const SEARCH: &str = "source=search&limit=2";

async fn fallback(world: &World, query: &str) -> Value {
    let list = world.list(query).await;
    assert_ne!(list["fallback"], Value::Null, "{query}: {list}");
    list["fallback"].clone()
}

#[tokio::test]
async fn whatever_a_source_does_the_list_is_no_error() {
    let ids = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
    for (way, reason) in [
        (Way::Hangs, "late"),
        (Way::Floods, "failed"),
        (Way::Says(500, ""), "failed"),
        (Way::Says(503, "<html>"), "failed"),
        (Way::Says(401, ""), "failed"),
        (Way::Says(404, ""), "failed"),
        (Way::Says(204, ""), "failed"),
        (Way::Refers(302, LOCATION, "http://127.0.0.1:1/stores"), "failed"),
        (Way::Refers(429, RETRY_AFTER, "1"), "busy"),
        (Way::Says(200, ""), "failed"),
        (Way::Says(200, "<html>"), "failed"),
        (Way::Says(200, "[]"), "failed"),
        (Way::Answers(200, json!([["a"], null])), "failed"),
        (Way::Answers(200, json!({"items": []})), "failed"),
        (Way::Answers(200, json!({"ids": ["a", ""]})), "failed"),
        (Way::Answers(200, json!({"ids": [1]})), "failed"),
        (Way::Answers(200, json!({"ids": ids(3)})), "failed"),
        (Way::Answers(200, json!({"ids": [], "next": 7})), "failed"),
    ] {
        let world = World::with_stores(&["b", "a", "c"]).await;
        world.source.now(way);
        let list = world.list(SEARCH).await;
        let fallback = &list["fallback"];
        assert_eq!(
            (&fallback["reason"], &fallback["basis"], &fallback["cut_off"]),
            (&json!(reason), &json!("view"), &json!(true)),
            "{fallback}"
        );
        assert!(fallback["detail"].as_str().unwrap().starts_with("search"), "{fallback}");
        assert_eq!((&list["ids"], &list["next"]), (&json!(["a", "b"]), &Value::Null));
        assert_eq!(world.source.asked().len(), 1, "one request, and no other");
    }
}

#[tokio::test]
async fn a_source_that_is_down_is_unreachable() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let world = World::with(limits(), Some(nobody)).await;
    world.put_store("a", json!({})).await;
    let list = world.list("source=ads").await;
    assert_eq!((&list["ids"], &list["fallback"]["reason"]), (&json!(["a"]), &json!("unreachable")));
}

#[tokio::test]
async fn a_slow_source_is_waited_for_until_the_deadline() {
    let deadline = Duration::from_millis(300);
    let world = World::with(Limits { deadline, ..limits() }, None).await;
    world.source.now(Way::Hangs);
    let detail = fallback(&world, SEARCH).await["detail"].take();
    assert_eq!(detail, "search did not answer within 300 ms");
}

#[tokio::test]
async fn a_source_that_keeps_failing_is_left_alone_and_asked_again_after_a_pause() {
    let world = World::with_stores(&["a"]).await;
    world.source.now(Way::Says(500, ""));
    for _ in 0..5 {
        assert_eq!(fallback(&world, SEARCH).await["reason"], "failed");
    }
    assert_eq!(world.source.asked().len(), 5);
    assert_eq!(fallback(&world, SEARCH).await["reason"], "paused");
    assert_eq!(world.source.asked().len(), 0, "it is not asked");
    let ads = world.list("source=ads").await;
    assert_eq!(ads["fallback"]["reason"], "failed", "each source has a breaker of its own");
    world.source.chooses(&["a"], None);
    eventually("it is asked again", || async {
        (world.list(SEARCH).await["fallback"] == Value::Null).then_some(())
    })
    .await;
    assert_eq!(world.list(SEARCH).await["fallback"], Value::Null, "and from then on each time");
}

#[tokio::test]
async fn a_source_is_left_alone_for_as_long_as_it_asks() {
    let world = World::with_stores(&["a"]).await;
    world.source.now(Way::Refers(503, RETRY_AFTER, "60"));
    assert_eq!(fallback(&world, SEARCH).await["reason"], "failed");
    world.source.chooses(&["a"], None);
    assert_eq!(fallback(&world, SEARCH).await["reason"], "paused");
    assert_eq!(world.source.asked().len(), 1);
}

/// Unlike a failure: other calls that are under way count, and afterwards everything is as before.
#[tokio::test]
async fn a_source_that_is_busy_does_not_fail_and_is_left_alone_for_as_long_as_it_asks() {
    let world = World::with_stores(&["a"]).await;
    world.source.now(Way::Refers(429, RETRY_AFTER, "0"));
    for _ in 0..10 {
        assert_eq!(fallback(&world, SEARCH).await["reason"], "busy");
    }
    assert_eq!(world.source.asked().len(), 10, "it is asked each time, since it asks for no wait");
    world.source.now(Way::Refers(429, RETRY_AFTER, "60"));
    assert_eq!(fallback(&world, SEARCH).await["reason"], "busy");
    world.source.chooses(&["a"], None);
    assert_eq!(fallback(&world, SEARCH).await["reason"], "busy");
    assert_eq!(world.source.asked().len(), 1);

    let world = World::with_stores(&["a"]).await;
    world.source.now(Way::Refers(429, RETRY_AFTER, "1"));
    assert_eq!(fallback(&world, SEARCH).await["reason"], "busy");
    world.source.chooses(&["a"], None);
    eventually("it is asked again", || async {
        (world.list(SEARCH).await["fallback"] == Value::Null).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let world = World::with(Limits { max_calls: 1, ..limits() }, None).await;
    world.source.now(Way::Hangs);
    let reason = async || fallback(&world, SEARCH).await["reason"].take();
    let (one, other) = tokio::join!(reason(), reason());
    assert_eq!([one, other], ["late", "busy"]);
    world.source.chooses(&[], None);
    assert_eq!(world.list(SEARCH).await["fallback"], Value::Null);
}

#[tokio::test]
async fn the_last_answer_to_the_same_question_is_remembered_with_its_age() {
    let world = World::with_stores(&["a", "b", "c"]).await;
    world.source.chooses(&["c", "a"], Some("on"));
    world.list("source=favourites&user=kim").await;
    world.source.now(Way::Says(500, ""));
    world.put_store("c", json!({"name": "renamed"})).await;
    let list = world.list("source=favourites&user=kim").await;
    assert_eq!((&list["ids"], &list["next"]), (&json!(["c", "a"]), &json!("on")));
    assert_eq!(list["items"][0]["name"], "renamed", "the stores are shown as they are now");
    let fallback = &list["fallback"];
    assert_eq!((&fallback["basis"], &fallback["cut_off"]), (&json!("remembered"), &json!(false)));
    let first = fallback["age_ms"].as_u64().unwrap();
    eventually("it gets older", || async {
        let list = world.list("source=favourites&user=kim").await;
        (list["fallback"]["age_ms"].as_u64().unwrap() > first).then_some(())
    })
    .await;
    // Another question has another answer, or none.
    let other = world.list("source=favourites&user=lee").await;
    assert_eq!((&other["ids"], &other["fallback"]["basis"]), (&json!([]), &json!("nothing")));
    assert_eq!(other["fallback"]["age_ms"], Value::Null);
}

#[tokio::test]
async fn the_view_is_filtered_as_far_as_it_knows_and_says_how_old_it_is() {
    let world = World::new().await;
    for (id, name, region, category, open) in [
        ("1", "달빛 국수", "마포구", "korean", true),
        ("2", "별빛김밥", "마포구", "korean", false),
        ("3", "Moon Cafe", "강남구", "cafe", true),
        ("4", "100%_\\", "강남구", "bar", true),
    ] {
        let fields = json!({"name": name, "region": region, "category": category, "open": open});
        world.put_store(id, fields).await;
    }
    world.put_store("5", json!({"name": "gone"})).await;
    world.stores.delete("5").await;
    world.source.now(Way::Says(503, ""));
    for (query, expected) in [
        ("source=search", vec!["4", "3", "1", "2"]),
        ("source=search&q=%EA%B5%AD%EC%88%98", vec!["1"]),
        ("source=search&q=%EB%8B%AC%EB%B9%9B%EA%B5%AD", vec!["1"]),
        ("source=search&q=MOONC", vec!["3"]),
        ("source=search&q=%25_%5C", vec!["4"]),
        ("source=search&q=%00", vec!["4", "3", "1", "2"]),
        ("source=search&region=%EB%A7%88%ED%8F%AC%EA%B5%AC&open=false", vec!["2"]),
        ("source=search&category=cafe", vec!["3"]),
        ("source=ads", vec!["4", "3", "1"]),
        ("source=ads&region=%EB%A7%88%ED%8F%AC%EA%B5%AC", vec!["1"]),
        ("source=ads&limit=1", vec!["4"]),
    ] {
        let list = world.list(query).await;
        assert_eq!(list["ids"], json!(expected), "{query}");
        let fallback = &list["fallback"];
        assert_eq!(fallback["cut_off"], query.contains("limit"), "{query}");
        // It was current a minute ago.
        let age = fallback["age_ms"].as_u64().unwrap();
        assert!(age >= 60_000, "{query}: {age}");
    }
}

/// The view has another order, so a page in the middle of it would repeat some stores and leave out others.
#[tokio::test]
async fn a_page_that_cannot_be_continued_can_be_asked_for_again() {
    let world = World::with_stores(&["a", "b"]).await;
    world.source.now(Way::Says(503, ""));
    for query in ["source=search&cursor=3061", "source=favourites&user=kim&after=3061"] {
        let list = world.list(query).await;
        assert_eq!((&list["ids"], &list["next"]), (&json!([]), &json!("3061")), "{query}");
        let fallback = &list["fallback"];
        assert_eq!(
            (&fallback["basis"], &fallback["cut_off"]),
            (&json!("nothing"), &json!(true)),
            "{query}"
        );
    }
}
