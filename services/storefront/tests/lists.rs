//! Lists of stores that a source chooses.

use serde_json::{Value, json};

use crate::support::{Way, World};

#[tokio::test]
async fn a_list_has_its_sources_order_and_shows_what_the_view_knows() {
    let world = World::with_stores(&["a", "b", "c"]).await;
    world.put_store("b", json!({"name": "달빛국수", "open": false, "delivery_fee": 3_000})).await;
    world.review("r1", "b", 4).await;
    world.stores.delete("c").await;
    world.source.chooses(&["b", "new", "a", "c"], Some("place"));
    let list = world.list("source=search").await;
    assert_eq!(list["ids"], json!(["b", "a"]));
    assert_eq!(list["unknown"], json!(["new", "c"]), "not here yet, and not here any more");
    assert_eq!((&list["next"], &list["fallback"]), (&json!("place"), &Value::Null));
    assert_eq!(
        list["items"][0],
        json!({
            "id": "b", "name": "달빛국수", "category": "", "region": "", "neighbourhood": "",
            "open": false, "min_order_amount": 0, "delivery_fee": 3_000,
            "rating": {"average": 4.0, "count": 1}, "version": 4,
        })
    );
    assert_eq!(list["items"][1]["id"], "a");
}

#[tokio::test]
async fn a_source_is_asked_once_in_its_own_words() {
    let world = World::new().await;
    for (query, asked) in [
        ("source=search", "/stores?limit=20"),
        (
            "source=search&q=a%26b%20c&category=cafe&region=%EB%A7%88&open=false&cursor=00&limit=7",
            "/stores?q=a%26b+c&category=cafe&region=%EB%A7%88&open=false&cursor=00&limit=7",
        ),
        ("source=ads&region=x&category=y&limit=100", "/ads?category=y&region=x&limit=100"),
        ("source=favourites&user=kim", "/users/kim/favourites?limit=20"),
        (
            "source=favourites&user=a%2Fb%3F%23%25&after=p&limit=1",
            "/users/a%2Fb%3F%23%25/favourites?after=p&limit=1",
        ),
        ("source=search&q=&cursor=", "/stores?limit=20"),
    ] {
        let list = world.list(query).await;
        assert_eq!(list["fallback"], Value::Null, "{query}: {list}");
        assert_eq!(world.source.asked(), [asked], "{query}");
    }
}

#[tokio::test]
async fn a_hundred_stores_can_be_listed() {
    let ids: Vec<_> = (0..100).map(|n| format!("s{n:03}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let world = World::with_stores(&ids).await;
    let backwards: Vec<_> = ids.iter().rev().copied().collect();
    world.source.chooses(&backwards, None);
    assert_eq!(world.list("source=ads&limit=100").await["ids"], json!(backwards));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named_and_nobody_is_asked() {
    let world = World::new().await;
    let (long, place) = ("x".repeat(201), "0".repeat(2_001));
    for (query, fields) in [
        (String::new(), vec!["source"]),
        ("source=review".to_owned(), vec!["source"]),
        ("source=search&source=ads".to_owned(), vec!["source"]),
        ("source=search&limit=0".to_owned(), vec!["limit"]),
        ("source=search&limit=101".to_owned(), vec!["limit"]),
        ("source=search&limit=ten".to_owned(), vec!["limit"]),
        ("source=search&open=yes".to_owned(), vec!["open"]),
        (
            format!("source=search&q={long}&region=%00&category={long}"),
            vec!["q", "category", "region"],
        ),
        (format!("source=search&cursor={place}"), vec!["cursor"]),
        ("source=search&user=kim".to_owned(), vec!["user"]),
        ("source=search&near=here".to_owned(), vec!["near"]),
        ("source=ads&q=x&open=true".to_owned(), vec!["q", "open"]),
        ("source=favourites".to_owned(), vec!["user"]),
        ("source=favourites&user=".to_owned(), vec!["user"]),
        ("source=favourites&user=..".to_owned(), vec!["user"]),
        ("source=favourites&user=%00".to_owned(), vec!["user"]),
        (format!("source=favourites&user={long}"), vec!["user"]),
        ("source=favourites&user=kim&cursor=x".to_owned(), vec!["cursor"]),
    ] {
        let answer = world.get(&format!("/stores?{query}")).await;
        let problem = answer.json();
        assert_eq!(answer.status, 400, "{query}: {problem}");
        let of = |error: &Value| error["field"].as_str().unwrap().to_owned();
        let named: Vec<_> = problem["errors"].as_array().unwrap().iter().map(of).collect();
        assert_eq!(named, fields, "{query}: {problem}");
    }
    assert_eq!(world.source.asked(), [""; 0]);
}

#[tokio::test]
async fn what_a_source_finds_wrong_is_the_callers_error() {
    let world = World::new().await;
    let errors = json!([{"field": "cursor", "detail": "must be the `next` of another page"}]);
    // More often than it takes to open a breaker.
    for status in [400, 422].repeat(5) {
        let refusal = json!({"status": status, "title": "Bad", "errors": errors});
        world.source.now(Way::Answers(status, refusal));
        let answer = world.get("/stores?source=search&cursor=00").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["errors"]), (400, &errors));
    }
    world.source.chooses(&[], None);
    assert_eq!(world.list("source=search").await["fallback"], Value::Null);
}
