//! Listing a store's reviews: pages, ratings, the end.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::support::{World, draft, entity, rated, reviews_of};

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_store_without_reviews_has_no_average() {
    let world = World::with_open_store().await;
    let page = world.get("/stores/s/reviews").await;
    let expected = json!({
        "store": {"id": "s", "name": "달빛국수", "open": true, "version": 1},
        "rating_average": null, "rating_count": 0, "items": [], "next": null,
    });
    assert_eq!((page.status, page.body), (200, expected));
    world.stop().await;
}

#[tokio::test]
async fn unknown_and_deleted_stores_have_no_page_and_closed_ones_do() {
    let world = World::with_open_store().await;
    world.review(&draft()).await;
    assert_eq!(world.get(&reviews_of("unknown")).await.problem(), 404);
    world.store("s", 2, "달빛국수 2", false).await;
    let page = world.get("/stores/s/reviews").await;
    let store = json!({"id": "s", "name": "달빛국수 2", "open": false, "version": 2});
    assert_eq!((page.status, &page.body["store"]), (200, &store));
    assert_eq!(page.body["rating_count"], 1);
    world.store_deleted("s", 3).await;
    assert_eq!(world.get("/stores/s/reviews").await.problem(), 410);
    assert_eq!(world.rows().await, 1);
    world.stop().await;
}

#[tokio::test]
async fn the_ratings_follow_every_write() {
    let world = World::with_open_store().await;
    world.store("other", 1, "옆집", true).await;
    world.post("/stores/other/reviews", &rated(1)).await;
    let mut paths = Vec::new();
    for (rating, average) in [(5, 5.0), (4, 4.5), (4, 4.33)] {
        paths.push(world.review(&rated(rating)).await);
        let page = world.get("/stores/s/reviews").await.body;
        assert_eq!(page["rating_average"], average);
        assert_eq!(page["rating_count"], paths.len());
    }
    world.put(&paths[0], &rated(1)).await;
    assert_eq!(world.get("/stores/s/reviews").await.body["rating_average"], 3.0);
    world.delete(&paths[0]).await;
    let page = world.get("/stores/s/reviews").await.body;
    assert_eq!((&page["rating_average"], &page["rating_count"]), (&json!(4.0), &json!(2)));
    world.stop().await;
}

#[tokio::test]
async fn the_ratings_are_right_after_writes_that_met() {
    let world = World::with_open_store().await;
    let mut paths = Vec::new();
    for _ in 0..20 {
        paths.push(world.review(&rated(1)).await);
    }
    let mut writes = tokio::task::JoinSet::new();
    for path in &paths[..10] {
        writes.spawn(world.request(reqwest::Method::PUT, path).json(&rated(5)).send());
    }
    for path in &paths[10..15] {
        writes.spawn(world.request(reqwest::Method::DELETE, path).send());
    }
    for _ in 0..10 {
        let new = world.request(reqwest::Method::POST, "/stores/s/reviews").json(&rated(3));
        writes.spawn(new.send());
    }
    while let Some(answer) = writes.join_next().await {
        assert!(answer.unwrap().unwrap().status().is_success());
    }
    // 10 fives, 5 ones left alone, 10 threes: 85 / 25.
    let page = world.get("/stores/s/reviews").await.body;
    assert_eq!((&page["rating_average"], &page["rating_count"]), (&json!(3.4), &json!(25)));
    world.stop().await;
}

#[tokio::test]
async fn pages_hold_each_review_once_from_the_newest_to_the_oldest() {
    let world = World::with_open_store().await;
    world.store("other", 1, "옆집", true).await;
    let mut written = Vec::new();
    for _ in 0..23 {
        written.push(world.review(&draft()).await.replace("/reviews/", ""));
        world.post("/stores/other/reviews", &draft()).await;
    }
    written.reverse();
    let mut seen = Vec::new();
    let mut next = Value::Null;
    loop {
        let after = next.as_str().map(|next| format!("&after={next}")).unwrap_or_default();
        let page = world.get(&format!("/stores/s/reviews?limit=7{after}")).await.body;
        assert_eq!(page["rating_count"], written.len() + seen.len() / 7);
        seen.extend(ids(&page));
        next = page["next"].clone();
        if next.is_null() {
            break;
        }
        // Whatever arrives in the meantime is newer than all further pages.
        world.review(&draft()).await;
    }
    assert_eq!(seen, written);
    world.stop().await;
}

#[tokio::test]
async fn a_page_goes_on_where_it_stopped_when_the_review_there_is_gone() {
    let world = World::with_open_store().await;
    for _ in 0..6 {
        world.review(&draft()).await;
    }
    let first = world.get("/stores/s/reviews?limit=3").await.body;
    let next = first["next"].as_str().unwrap();
    assert_eq!(world.delete(&format!("/reviews/{next}")).await.status, 204);
    // The same ID in another spelling.
    let after = next.to_uppercase();
    let second = world.get(&format!("/stores/s/reviews?limit=3&after={after}")).await.body;
    let both: BTreeSet<_> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_eq!((both.len(), &second["next"]), (6, &Value::Null));
    world.stop().await;
}

#[tokio::test]
async fn a_page_has_20_reviews_unless_asked_otherwise() {
    let world = World::with_open_store().await;
    for _ in 0..21 {
        world.review(&draft()).await;
    }
    assert_eq!(ids(&world.get("/stores/s/reviews").await.body).len(), 20);
    let all = world.get("/stores/s/reviews?limit=21").await.body;
    assert_eq!((ids(&all).len(), &all["next"]), (21, &Value::Null));
    world.stop().await;
}

#[tokio::test]
async fn a_batch_of_stores_is_applied_as_one() {
    let world = World::start().await;
    let state = |n: u64| review::stores::StoreState {
        name: format!("{n}호점"),
        open: n.is_multiple_of(2),
    };
    let mut batch: Vec<_> =
        (0..500).map(|n| entity(&format!("b{n:03}"), n, Some(state(n)))).collect();
    batch.push(entity("b999", 7, None));
    world.apply(batch).await;
    let page = world.get("/stores/b123/reviews").await.body;
    let expected = json!({"id": "b123", "name": "123호점", "open": false, "version": 123});
    assert_eq!(page["store"], expected);
    assert_eq!(world.get("/stores/b998/reviews").await.status, 404);
    assert_eq!(world.get("/stores/b999/reviews").await.status, 410);
    world.stop().await;
}
