//! The page of a store, from stores and reviews that arrive in any order.

use std::collections::BTreeMap;

use nudge_chance::Random;
use serde_json::{Value, json};
use sqlx::query;

use crate::support::{World, review};

#[tokio::test]
async fn a_page_shows_the_store_with_its_menus_its_rating_and_its_newest_reviews() {
    let world = World::new().await;
    let store = json!({
        "name": "달빛국수 망원점", "category": "korean", "region": "마포구", "address": "포은로 1",
        "neighbourhood": "망원동", "phone": "02-123", "description": "손으로\n뽑은 면", "open": false,
        "min_order_amount": 12_000, "delivery_fee": 3_000,
        "menus": [{"name": "잔치국수", "price": 7_000}, {"name": "it's", "price": 0}],
    });
    world.stores.put("42", store).await;
    world.review("r1", "42", 5).await;
    world.review("r2", "42", 4).await;
    world.review("r3", "another", 1).await;
    let shown = |id, rating| {
        let mut shown = review("42", rating);
        shown["id"] = json!(id);
        shown.as_object_mut().unwrap().remove("store_id");
        shown
    };
    let page = world.page("42").await;
    assert_eq!(
        page,
        json!({
            "id": "42", "name": "달빛국수 망원점", "category": "korean", "region": "마포구",
            "neighbourhood": "망원동", "open": false, "min_order_amount": 12_000,
            "delivery_fee": 3_000, "rating": {"average": 4.5, "count": 2}, "version": 1,
            "address": "포은로 1", "phone": "02-123", "description": "손으로\n뽑은 면",
            "menus": [{"name": "잔치국수", "price": 7_000}, {"name": "it's", "price": 0}],
            "newest_reviews": [shown("r2", 4), shown("r1", 5)],
        })
    );
}

#[tokio::test]
async fn a_store_without_reviews_has_no_average() {
    let world = World::with_stores(&["a"]).await;
    assert_eq!(world.rating("a").await, (0, None));
    assert_eq!(world.page("a").await["newest_reviews"], json!([]));
}

#[tokio::test]
async fn reviews_that_come_before_their_store_are_shown_with_it() {
    let world = World::new().await;
    world.review("r1", "a", 5).await;
    world.review("r2", "a", 2).await;
    assert_eq!(world.get("/stores/a").await.status, 404, "a review makes no store");
    world.put_store("a", json!({})).await;
    assert_eq!(world.rating("a").await, (2, Some(3.5)));
}

#[tokio::test]
async fn a_store_that_is_unknown_or_deleted_is_said_to_be() {
    let world = World::with_stores(&["gone"]).await;
    world.review("r1", "gone", 5).await;
    world.stores.delete("gone").await;
    world.stores.delete("never-seen").await;
    for (id, status) in [("nobody", 404), ("gone", 410), ("never-seen", 410)] {
        let answer = world.get(&format!("/stores/{id}")).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (status, &json!(status)));
    }
    for id in ["%00", "%FF", &"x".repeat(201)] {
        let answer = world.get(&format!("/stores/{id}")).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["errors"][0]["field"], "id");
    }
}

/// An aggregate that is added to and subtracted from goes wrong in each of these.
#[tokio::test]
async fn deleting_and_creating_either_again_leaves_the_rating_right() {
    let world = World::with_stores(&["a", "b"]).await;
    world.review("r1", "a", 5).await;
    world.review("r2", "a", 1).await;
    world.stores.delete("a").await;
    world.review("r3", "a", 3).await;
    world.put_store("a", json!({})).await;
    assert_eq!(world.rating("a").await, (3, Some(3.0)), "the store came back");
    world.reviews.delete("r1").await;
    assert_eq!(world.rating("a").await, (2, Some(2.0)), "a review is gone");
    world.reviews.delete("r1").await;
    assert_eq!(world.rating("a").await, (2, Some(2.0)), "and is not taken away twice");
    world.review("r1", "a", 4).await;
    assert_eq!(world.rating("a").await, (3, Some(2.67)), "it came back with another rating");
    world.review("r2", "a", 2).await;
    assert_eq!(world.rating("a").await, (3, Some(3.0)), "one was rewritten");
    world.review("r1", "b", 4).await;
    assert_eq!(world.rating("a").await, (2, Some(2.5)), "one went to another store");
    assert_eq!(world.rating("b").await, (1, Some(4.0)));
    for id in ["r2", "r3"] {
        world.reviews.delete(id).await;
    }
    assert_eq!(world.rating("a").await, (0, None));
}

#[tokio::test]
async fn the_ten_newest_reviews_are_shown_and_all_are_counted() {
    let world = World::with_stores(&["a", "b"]).await;
    for n in [3, 11, 7, 1, 9, 5, 12, 2, 8, 10, 4, 6] {
        world.review(&format!("r{n:02}"), "a", 5).await;
        world.review(&format!("s{n:02}"), "b", 1).await;
    }
    let page = world.page("a").await;
    let of = |review: &Value| review["id"].as_str().unwrap().to_owned();
    let shown: Vec<_> = page["newest_reviews"].as_array().unwrap().iter().map(of).collect();
    let newest: Vec<_> = (3..=12).rev().map(|n| format!("r{n:02}")).collect();
    assert_eq!(shown, newest);
    assert_eq!(world.rating("a").await, (12, Some(5.0)));
}

/// A store and a review may have the same ID: nothing in the database connects the two entities.
#[tokio::test]
async fn whatever_order_both_owners_changes_come_in_pages_show_what_is_there() {
    let world = World::new().await;
    let mut random = Random::stream(20_261_129, 0);
    let (mut stores, mut reviews) = (BTreeMap::new(), BTreeMap::new());
    let ids = ["1", "2", "3"];
    for step in 0..200 {
        let id = *random.one_of(&["1", "2", "3", "4", "5", "6"]);
        match random.below(5) {
            0 if ids.contains(&id) => {
                world.put_store(id, json!({})).await;
                stores.insert(id, true);
            }
            1 if ids.contains(&id) => {
                world.stores.delete(id).await;
                stores.insert(id, false);
            }
            2 => {
                world.reviews.delete(id).await;
                reviews.remove(id);
            }
            _ => {
                let (store, rating) = (*random.one_of(&ids), 1 + random.below(5) as u8);
                world.review(id, store, rating).await;
                reviews.insert(id, (store, rating));
            }
        }
        for store in ids {
            let answer = world.get(&format!("/stores/{store}")).await;
            let status = match stores.get(store) {
                None => 404,
                Some(false) => 410,
                Some(true) => 200,
            };
            assert_eq!(answer.status, status, "step {step}, store {store}");
            if status == 200 {
                let ratings = reviews.values().filter(|(of, _)| *of == store);
                let ratings: Vec<_> = ratings.map(|(_, rating)| u64::from(*rating)).collect();
                let shown = answer.json();
                assert_eq!(shown["rating"]["count"], ratings.len(), "step {step}, store {store}");
                let mean = ratings.iter().sum::<u64>() as f64 / ratings.len().max(1) as f64;
                let average = shown["rating"]["average"].as_f64().unwrap_or_default();
                assert!((average - mean).abs() < 0.006, "step {step}: {average}, not {mean}");
                let newest = reviews.iter().rev().filter(|(_, (of, _))| *of == store);
                let newest: Vec<_> = newest.map(|(id, _)| json!(id)).collect();
                let of = |review: &Value| review["id"].clone();
                let listed = shown["newest_reviews"].as_array().unwrap().iter().map(of);
                assert_eq!(listed.collect::<Vec<_>>(), newest, "step {step}, store {store}");
            }
        }
    }
}

/// Each counts what it sees; without the lock, it would not see what another one is about to commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_of_one_store_that_are_applied_at_once_are_all_counted() {
    let world = World::with_stores(&["a"]).await;
    for round in 1..=50 {
        let write = async |rating| world.review(&format!("{round}-{rating}"), "a", rating).await;
        tokio::join!(write(1), write(2), write(3), write(4));
        // Each time, since the next review would make good what was missed.
        assert_eq!(world.rating("a").await, (4 * round, Some(2.5)), "round {round}");
    }
}

#[tokio::test]
async fn a_rating_or_a_review_that_somebody_altered_is_noticed() {
    let world = World::with_stores(&["a"]).await;
    world.review("r1", "a", 5).await;
    world.review("r2", "b", 5).await;
    assert!(world.reviews.holds("r1", review("a", 5)).await);
    for alter in [
        "UPDATE rating SET count = 7 WHERE id = 'a'",
        "UPDATE rating SET sum = 4 WHERE id = 'a'",
        "DELETE FROM rating WHERE id = 'a'",
        "UPDATE review SET text = '' WHERE id = 'r1'",
        "UPDATE review SET store_id = 'b' WHERE id = 'r1'",
    ] {
        world.stores.database.write(query(alter)).await.unwrap();
        assert!(!world.reviews.holds("r1", review("a", 5)).await, "{alter}");
        world.review("r1", "a", 5).await;
        assert!(world.reviews.holds("r1", review("a", 5)).await, "{alter}");
        assert_eq!(world.rating("a").await, (1, Some(5.0)), "{alter}");
    }
    world.stores.database.write(query("UPDATE rating SET sum = 4 WHERE id = 'b'")).await.unwrap();
    assert!(world.reviews.holds("r1", review("a", 5)).await, "another store's rating");
}
