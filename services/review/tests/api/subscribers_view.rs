//! What subscribers of `review` get from the sync API, and the routes that every program has.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::support::{World, draft, rated, send};
use nudge_testbed::TestDatabase;

#[tokio::test]
async fn callbacks_get_live_deleted_and_unknown_reviews_in_one_answer() {
    let world = World::with_open_store().await;
    let live = world.post("/stores/s/reviews", &draft()).await;
    let gone = world.post("/stores/s/reviews", &draft()).await;
    let deleted = world.delete(gone.header("location")).await;
    let ask = json!({"ids": [live.id(), gone.id(), "unknown"]});
    let answer = world.post("/sync/v1/review/batch-get", &ask).await;
    let find = |id: &str| -> Value {
        let items = answer.body["items"].as_array().unwrap();
        items.iter().find(|item| item["id"] == id).unwrap().clone()
    };
    let version = |tag: &str| tag.trim_matches('"').parse::<u64>().unwrap();
    let item = find(&live.id());
    assert_eq!((&item["status"], &item["state"]), (&json!("live"), &live.body));
    assert_eq!(item["version"], version(live.header("etag")));
    let item = find(&gone.id());
    assert_eq!((&item["status"], item.get("state")), (&json!("deleted"), None));
    assert_eq!(item["version"], version(deleted.header("etag")));
    assert_eq!(find("unknown")["status"], "unknown");

    let some = json!({"ids": [live.id()], "fields": ["store_id", "rating"]});
    let answer = world.post("/sync/v1/review/batch-get", &some).await;
    assert_eq!(answer.body["items"][0]["state"], json!({"store_id": "s", "rating": 4}));
    world.stop().await;
}

#[tokio::test]
async fn one_review_is_answered_with_its_version_and_its_end() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let path = format!("/sync/v1/review/{}", written.id());
    let read = world.get(&path).await;
    assert_eq!((read.status, &read.body["state"]), (200, &written.body));
    assert_eq!(read.header("etag"), written.header("etag"));
    world.delete(written.header("location")).await;
    assert_eq!(world.get(&path).await.status, 410);
    assert_eq!(world.get("/sync/v1/review/unknown").await.status, 404);
    world.stop().await;
}

#[tokio::test]
async fn each_change_is_recorded_once_with_a_rising_version() {
    let world = World::with_open_store().await;
    let path = world.review(&draft()).await;
    let mut last = 0;
    for step in 0..3 {
        match step {
            0 => {}
            1 => assert_eq!(world.put(&path, &rated(1)).await.status, 200),
            _ => assert_eq!(world.delete(&path).await.status, 204),
        }
        let recorded = world.recorded().await;
        assert_eq!(recorded.len(), 1);
        assert_eq!(recorded[0]["deleted"], step == 2);
        let version = recorded[0]["version"].as_u64().unwrap();
        assert!(version > last);
        last = version;
    }
    world.stop().await;
}

/// Reviews belong to this service: that their store was deleted does not change them.
#[tokio::test]
async fn the_end_of_a_store_is_no_change_of_its_reviews() {
    let world = World::with_open_store().await;
    let written = world.post("/stores/s/reviews", &draft()).await;
    let before = world.recorded().await;
    world.store_deleted("s", 2).await;
    assert_eq!(world.recorded().await, before);
    let answer = world.get(&format!("/sync/v1/review/{}", written.id())).await;
    assert_eq!((answer.status, &answer.body["state"]), (200, &written.body));
    world.stop().await;
}

#[tokio::test]
async fn what_every_program_offers_is_there() {
    let world = World::start().await;
    assert_eq!(world.get("/livez").await.status, 200);
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.as_str().unwrap().contains("review"), "the publisher's metrics");
    assert_eq!(world.get("/nudge/v1/status").await.status, 200);
    let document = world.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    let printed: Value = serde_json::from_str(&review::service().document()).unwrap();
    assert_eq!(document.body, printed);
    // Exactly the methods in the document are routed.
    for (path, item) in document.body["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let url = path.replace("{id}", "x").replace("{entity}", "store");
            let request = world.request(method.to_uppercase().parse().unwrap(), &url);
            // The last words of these paths are also valid IDs.
            let words = ["batch-get", "change-log", "digest", "items", "recent", "renew"];
            let words = words.map(|word| format!("/sync/v1/review/{word}"));
            let of_an_id = method == "get" && words.contains(path);
            let documented = item.get(method).is_some();
            if documented && path.ends_with("/events") {
                // Its answer continues until the service stops.
                assert_eq!(request.send().await.unwrap().status(), 200);
                continue;
            }
            let answer = send(request).await;
            assert_eq!(answer.status != 405, documented || of_an_id, "{method} {path}");
            assert_ne!(answer.body["detail"], "no such path", "{path}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn reviews_survive_a_restart() {
    let database = Arc::new(TestDatabase::new().await);
    let mut path = String::new();
    for round in 0..2 {
        let world = World::start_on(database.clone()).await;
        if round == 0 {
            world.store("s", 1, "달빛국수", true).await;
            path = world.review(&draft()).await;
        }
        assert_eq!(world.get(&path).await.status, 200);
        assert_eq!(world.get("/stores/s/reviews").await.body["rating_count"], 1);
        world.stop().await;
    }
}
