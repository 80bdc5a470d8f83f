//! New reviews: which stores may be reviewed, and what a write returns.

use reqwest::Method;
use serde_json::json;

use crate::api::support::{World, draft, reviews_of, send};

#[tokio::test]
async fn a_review_of_an_open_store_is_written_and_can_be_read() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    assert_eq!(written.status, 201);
    let location = format!("/reviews/{}", written.id());
    assert_eq!(written.header("location"), location);
    for (field, value) in draft().as_object().unwrap() {
        assert_eq!(&written.body[field], value);
    }
    assert_eq!(written.body["store_id"], "s");
    assert_eq!(written.body["created_at"], written.body["updated_at"]);
    let version = written.header("etag").trim_matches('"').to_owned();
    assert_eq!(written.header("nudge-token"), format!("review/{}@{version}", written.id()));

    let read = world.get(&location).await;
    assert_eq!((read.status, &read.body), (200, &written.body));
    assert_eq!(read.header("etag"), written.header("etag"));
    world.stop().await;
}

#[tokio::test]
async fn a_store_is_refused_by_what_is_known_of_it_and_nothing_is_written() {
    let world = World::with_open_store().await;
    world.store("closed", 1, "닫힌 가게", false).await;
    world.store("gone", 1, "없어진 가게", true).await;
    world.store_deleted("gone", 2).await;
    world.store_deleted("never-seen-alive", 1).await;
    for (store, status) in
        [("unknown", 404), ("closed", 409), ("gone", 410), ("never-seen-alive", 410)]
    {
        let answer = world.post(&reviews_of(store), &draft()).await;
        assert_eq!(answer.problem(), status, "{store}");
    }
    assert_eq!((world.rows().await, world.recorded().await.len()), (0, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_store_that_opens_closes_goes_and_comes_back_is_followed() {
    let world = World::with_open_store().await;
    world.store("s", 2, "달빛국수", false).await;
    assert_eq!(world.post("/stores/s/reviews", &draft()).await.status, 409);
    world.store("s", 3, "달빛국수", true).await;
    assert_eq!(world.post("/stores/s/reviews", &draft()).await.status, 201);
    world.store_deleted("s", 4).await;
    assert_eq!(world.post("/stores/s/reviews", &draft()).await.status, 410);
    world.store("s", 5, "새 달빛국수", true).await;
    assert_eq!(world.post("/stores/s/reviews", &draft()).await.status, 201);
    // The review from before the delete was kept and is shown again.
    assert_eq!(world.get("/stores/s/reviews").await.body["rating_count"], 2);
    world.stop().await;
}

#[tokio::test]
async fn any_id_that_a_store_may_have_can_be_reviewed() {
    let world = World::start().await;
    // ("." and ".." are also valid IDs, but clients remove them from a path, encoded or not.)
    let long = "가".repeat(66);
    for store in ["a/b", "a b", "%", "%2F", "강남 1호점", "?x=1#y", ".b.", long.as_str()] {
        world.store(store, 1, "가게", true).await;
        let written = world.post(&reviews_of(store), &draft()).await;
        assert_eq!((written.status, &written.body["store_id"]), (201, &json!(store)));
        let listed = world.get(&reviews_of(store)).await;
        assert_eq!(listed.body["items"][0]["id"], written.body["id"], "{store}");
        assert_eq!(listed.body["store"]["id"], store);
    }
    world.stop().await;
}

#[tokio::test]
async fn nobody_is_called_whatever_is_asked() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    for store in ["s", "unknown"] {
        world.post(&reviews_of(store), &draft()).await;
        world.get(&reviews_of(store)).await;
    }
    world.put(&path, &json!({"rating": 1, "text": "다시", "author": "민지"})).await;
    world.get(&path).await;
    world.delete(&path).await;
    let waiting = world.request(Method::POST, "/stores/late/reviews").json(&draft());
    assert_eq!(send(waiting.header("Nudge-Token", "store/late@5")).await.problem(), 504);
    assert_eq!(world.calls_to_owner(), 0);
    world.stop().await;
}

/// The kit records what it applied in its own table, in the same transaction.
async fn applied(world: &World, store: &str, version: i64) {
    let insert = "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at)
                  VALUES ('store', $1, $2, 0, 0)";
    let mut tx = world.service.database.begin().await.unwrap();
    sqlx::query(insert).bind(store).bind(version).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn with_a_token_a_write_waits_until_the_store_is_known() {
    let world = World::start().await;
    let request = world.request(Method::POST, "/stores/new/reviews").json(&draft());
    let waiting = tokio::spawn(send(request.header("Nudge-Token", "store/new@7")));
    // Without the token, the store is still unknown.
    assert_eq!(world.post("/stores/new/reviews", &draft()).await.status, 404);
    assert!(!waiting.is_finished());
    world.store("new", 7, "새 가게", true).await;
    applied(&world, "new", 7).await;
    assert_eq!(waiting.await.unwrap().status, 201);
    world.stop().await;
}

#[tokio::test]
async fn the_token_of_an_own_write_does_not_wait() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let list = world.request(Method::GET, "/stores/s/reviews");
    let listed = send(list.header("Nudge-Token", written.header("nudge-token"))).await;
    assert_eq!((listed.status, &listed.body["rating_count"]), (200, &json!(1)));
    world.stop().await;
}
