//! Which stores are advertised, and in which order.

use axum::http::Method;
use serde_json::json;

use crate::support::{World, draft, with};

#[tokio::test]
async fn a_closed_or_deleted_store_is_not_advertised_and_is_again_once_it_is_back() {
    let world = World::with(&["a", "b"]).await;
    world.begin(&draft("a", 10)).await;
    world.begin(&draft("b", 10)).await;
    assert_eq!(world.ads("").await, ["a", "b"]);
    world.stores.put("a", json!({"name": "a", "open": false})).await;
    assert_eq!(world.ads("").await, ["b"]);
    world.stores.delete("b").await;
    assert_eq!(world.ads("").await, [""; 0]);
    world.stores.put("a", json!({"name": "달빛국수", "open": true})).await;
    world.stores.put("b", json!({"name": "b", "open": true})).await;
    assert_eq!(world.ads("").await, ["a", "b"]);
    let ads = world.ask(Method::GET, "/ads", None).await.json();
    assert_eq!(ads["items"][0]["name"], "달빛국수");
}

#[tokio::test]
async fn only_what_runs_now_and_is_meant_for_the_place_is_advertised() {
    let world = World::with(&["all", "mapo", "cafe", "both", "over", "later"]).await;
    world.begin(&draft("all", 10)).await;
    world.begin(&with(draft("mapo", 10), json!({"region": "마포구"}))).await;
    world.begin(&with(draft("cafe", 10), json!({"category": "cafe"}))).await;
    world.begin(&with(draft("both", 10), json!({"region": "마포구", "category": "cafe"}))).await;
    world.begin(&with(draft("over", 10), json!({"until": "2020-01-02T00:00:00Z"}))).await;
    world.begin(&with(draft("later", 10), json!({"from": "2998-01-01T00:00:00Z"}))).await;
    let mapo = "%EB%A7%88%ED%8F%AC%EA%B5%AC";
    for (query, expected) in [
        (String::new(), vec!["all", "mapo", "cafe", "both"]),
        (format!("?region={mapo}"), vec!["all", "mapo", "cafe", "both"]),
        (format!("?region={mapo}&category=noodles"), vec!["all", "mapo"]),
        ("?category=cafe&region=elsewhere".to_owned(), vec!["all", "cafe"]),
        ("?limit=2".to_owned(), vec!["all", "mapo"]),
    ] {
        assert_eq!(world.ads(&query).await, expected, "{query}");
    }
}

/// A store with twice the budget is shown twice as often.
#[tokio::test]
async fn budgets_are_used_up_at_the_same_pace() {
    let world = World::with(&["small", "large"]).await;
    let (small, large) =
        (world.begin(&draft("small", 10)).await, world.begin(&draft("large", 20)).await);
    let (mut of_small, mut of_large) = (0, 0);
    for turn in 1..=30 {
        match &*world.ads("?limit=1").await[0] {
            "small" => of_small += world.shown(&[&small]).await,
            _ => of_large += world.shown(&[&large]).await,
        }
        let fair = f64::from(turn) / 3.0;
        assert!((of_small as f64 - fair).abs() <= 1.0, "{of_small} of {turn}");
    }
    assert_eq!((of_small, of_large), (10, 20));
    assert_eq!(world.ads("").await, [""; 0], "both are used up");
}

#[tokio::test]
async fn a_store_is_advertised_once_however_many_campaigns_it_has() {
    let world = World::with(&["a", "b"]).await;
    let (first, second) = (world.begin(&draft("a", 10)).await, world.begin(&draft("a", 10)).await);
    world.begin(&draft("b", 10)).await;
    assert_eq!(world.ads("").await, ["a", "b"]);
    world.shown(&[&first]).await;
    let ads = world.ask(Method::GET, "/ads", None).await.json();
    assert_eq!(
        (&ads["items"][0]["id"], &ads["items"][0]["campaign"]),
        (&json!("a"), &json!(second))
    );
}

#[tokio::test]
async fn impressions_are_counted_up_to_the_budget_and_for_campaigns_that_exist() {
    let world = World::with(&["a"]).await;
    let campaign = world.begin(&draft("a", 2)).await;
    let unknown = "nobody".to_owned();
    assert_eq!(world.shown(&[&campaign, &unknown, &campaign]).await, 1, "each once");
    assert_eq!([world.shown(&[&campaign]).await, world.shown(&[&campaign]).await], [1, 0]);
    let path = format!("/campaigns/{campaign}");
    assert_eq!(world.ask(Method::GET, &path, None).await.json()["shown"], 2);
}

/// Two pages report the same campaigns in opposite orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_meet_are_all_counted() {
    let world = World::with(&["a", "b"]).await;
    let (a, b) = (world.begin(&draft("a", 1_000)).await, world.begin(&draft("b", 1_000)).await);
    let report = async |order: [&String; 2]| {
        let mut counted = 0;
        for _ in 0..50 {
            counted += world.shown(&order).await;
        }
        counted
    };
    let (one, other) = tokio::join!(report([&a, &b]), report([&b, &a]));
    assert_eq!((one, other), (100, 100));
}

#[tokio::test]
async fn a_campaign_is_written_read_replaced_and_ended() {
    let world = World::with(&["a", "b"]).await;
    let first = with(draft("a", 10), json!({"region": "마포구", "category": "cafe"}));
    let answer = world.ask(Method::POST, "/campaigns", Some(&first)).await;
    let campaign = answer.json();
    let id = campaign["id"].as_str().unwrap().to_owned();
    let path = format!("/campaigns/{id}");
    let expected = with(
        first,
        json!({
            "id": id, "shown": 0, "from": "2020-01-01T00:00:00.000000Z", "until": "2999-01-01T00:00:00.000000Z",
        }),
    );
    assert_eq!(campaign, expected);
    assert_eq!(world.ask(Method::GET, &path, None).await.json(), expected);
    world.shown(&[&id]).await;
    let replaced = world.ask(Method::PUT, &path, Some(&draft("b", 5))).await;
    assert_eq!(replaced.status, 200);
    let now = replaced.json();
    assert_eq!(
        (&now["store_id"], &now["region"], &now["shown"]),
        (&json!("b"), &json!(null), &json!(1))
    );
    assert_eq!(world.ads("").await, ["b"]);
    assert_eq!(world.ask(Method::DELETE, &path, None).await.status, 204);
    for method in [Method::DELETE, Method::GET] {
        assert_eq!(world.ask(method, &path, None).await.status, 404);
    }
    assert_eq!(world.ask(Method::PUT, &path, Some(&draft("b", 5))).await.status, 404);
    assert_eq!(world.rows().await, 0);
}
