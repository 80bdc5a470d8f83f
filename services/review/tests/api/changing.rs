//! Rewriting and deleting reviews, and conditional requests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::support::{World, draft, rated, send};

#[tokio::test]
async fn a_review_is_rewritten_as_a_whole() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let path = written.header("location");
    let other = json!({"rating": 1, "text": "첫 줄\n둘째 줄", "author": "하준"});
    let rewritten = world.put(path, &other).await;
    assert_eq!(rewritten.status, 200);
    for (field, value) in other.as_object().unwrap() {
        assert_eq!(&rewritten.body[field], value);
    }
    for field in ["id", "store_id", "created_at"] {
        assert_eq!(rewritten.body[field], written.body[field]);
    }
    assert!(rewritten.body["updated_at"].as_str() > written.body["updated_at"].as_str());
    assert_ne!(rewritten.header("etag"), written.header("etag"));
    let version = rewritten.header("etag").trim_matches('"');
    let token = format!("review/{}@{version}", written.id());
    assert_eq!(rewritten.header("nudge-token"), token);
    let read = world.get(path).await;
    assert_eq!((&read.body, read.header("etag")), (&rewritten.body, rewritten.header("etag")));
    world.stop().await;
}

#[tokio::test]
async fn the_same_words_again_keep_the_version() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let before = world.recorded().await;
    let again = world.put(written.header("location"), &draft()).await;
    assert_eq!((again.status, &again.body), (200, &written.body));
    assert_eq!(again.header("etag"), written.header("etag"));
    assert_eq!(again.header("nudge-token"), written.header("nudge-token"));
    assert_eq!(world.recorded().await, before);
    world.stop().await;
}

#[tokio::test]
async fn a_closed_store_lets_reviews_be_mended_and_a_deleted_one_only_taken_away() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    world.store("s", 2, "달빛국수", false).await;
    assert_eq!(world.put(&path, &rated(2)).await.status, 200);
    world.store_deleted("s", 3).await;
    assert_eq!(world.put(&path, &rated(3)).await.problem(), 410);
    assert_eq!(world.get(&path).await.problem(), 410);
    world.store("s", 4, "달빛국수", true).await;
    assert_eq!(world.get(&path).await.body["rating"], 2);
    world.store_deleted("s", 5).await;
    assert_eq!(world.delete(&path).await.status, 204);
    assert_eq!(world.rows().await, 0);
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_review_is_gone_for_every_method() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    let deleted = world.delete(&path).await;
    assert_eq!((deleted.status, &deleted.body), (204, &Value::Null));
    let version = deleted.header("etag").trim_matches('"');
    let token = format!("{}@{version}", path.replace("/reviews/", "review/"));
    assert_eq!(deleted.header("nudge-token"), token);
    assert_eq!(world.get(&path).await.problem(), 410);
    assert_eq!(world.put(&path, &draft()).await.problem(), 410);
    assert_eq!(world.delete(&path).await.problem(), 410);
    assert_eq!(world.rows().await, 0);
    world.stop().await;
}

#[tokio::test]
async fn a_review_that_never_was_is_unknown_to_every_method() {
    let world = World::with_open_store().await;
    for path in ["/reviews/0190a1b2-0000-7000-8000-000000000000", "/reviews/x", "/reviews/a%2Fb"] {
        assert_eq!(world.get(path).await.problem(), 404, "{path}");
        assert_eq!(world.put(path, &draft()).await.problem(), 404, "{path}");
        assert_eq!(world.delete(path).await.problem(), 404, "{path}");
    }
    assert_eq!((world.rows().await, world.recorded().await.len()), (0, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_write_meant_for_another_version_is_refused_and_changes_nothing() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let path = written.header("location");
    let before = world.recorded().await;
    let stale = ["\"1\"".to_owned(), format!("W/{}", written.header("etag"))];
    for tag in &stale {
        for method in [Method::PUT, Method::DELETE] {
            let request = world.request(method, path).header("If-Match", tag).json(&rated(1));
            let refused = send(request).await;
            assert_eq!((refused.problem(), refused.wrong_fields()), (412, vec!["If-Match"]));
            assert_eq!(refused.header("etag"), written.header("etag"));
        }
    }
    assert_eq!(world.get(path).await.body, written.body);
    assert_eq!(world.recorded().await, before);

    let put = world.request(Method::PUT, path).header("If-Match", written.header("etag"));
    let rewritten = send(put.json(&rated(1))).await;
    assert_eq!(rewritten.status, 200);
    let tags = format!("\"1\", {}", rewritten.header("etag"));
    let delete = world.request(Method::DELETE, path).header("If-Match", tags);
    assert_eq!(send(delete).await.status, 204);
    // That a review does not exist is reported before a failed condition.
    let delete = world.request(Method::DELETE, path).header("If-Match", "\"1\"");
    assert_eq!(send(delete).await.problem(), 410);
    world.stop().await;
}

#[tokio::test]
async fn of_two_writes_for_the_same_version_one_wins() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let put = |rating| {
        let put = world.request(Method::PUT, written.header("location"));
        send(put.header("If-Match", written.header("etag")).json(&rated(rating)))
    };
    let (one, two) = tokio::join!(put(1), put(2));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    world.stop().await;
}

#[tokio::test]
async fn a_reader_that_has_the_version_gets_304() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let (path, tag) = (written.header("location"), written.header("etag"));
    let get = |tag: String| send(world.request(Method::GET, path).header("If-None-Match", tag));
    for has in [tag.to_owned(), format!("W/{tag}"), format!("\"1\",{tag}"), "*".to_owned()] {
        let answer = get(has).await;
        assert_eq!((answer.status, &answer.body), (304, &Value::Null));
        assert_eq!(answer.header("etag"), tag);
    }
    assert_eq!(get("\"1\"".to_owned()).await.status, 200);
    world.put(path, &rated(1)).await;
    assert_eq!(get(tag.to_owned()).await.status, 200);
    world.stop().await;
}
