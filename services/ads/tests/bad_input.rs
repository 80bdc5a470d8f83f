//! What is wrong is named, and nothing is written.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{World, draft, with};

#[tokio::test]
async fn a_wrong_campaign_is_422_with_all_that_is_wrong() {
    let world = World::with(&["a", "gone"]).await;
    world.stores.delete("gone").await;
    let id = world.begin(&draft("a", 1)).await;
    let long = "가".repeat(101);
    for (fields, wrong) in [
        (json!({"store_id": "nobody"}), vec!["store_id"]),
        (json!({"store_id": "gone"}), vec!["store_id"]),
        (json!({"store_id": ""}), vec!["store_id"]),
        (json!({"store_id": 42}), vec!["store_id"]),
        (json!({"budget": 0}), vec!["budget"]),
        (json!({"budget": 1_000_000_001}), vec!["budget"]),
        (json!({"budget": -1}), vec!["budget"]),
        (json!({"budget": 1.5}), vec!["budget"]),
        (json!({"until": "2020-01-01T00:00:00Z"}), vec!["until"]),
        (json!({"until": "tomorrow"}), vec!["until"]),
        (json!({"region": ""}), vec!["region"]),
        (json!({"region": "a\u{0}b"}), vec!["region"]),
        (
            json!({"region": long, "category": long, "budget": 0}),
            vec!["region", "category", "budget"],
        ),
        (json!({"shown": 0}), vec!["shown"]),
    ] {
        let sent = with(draft("a", 10), fields);
        for (method, path) in
            [(Method::POST, "/campaigns".to_owned()), (Method::PUT, format!("/campaigns/{id}"))]
        {
            let answer = world.ask(method, &path, Some(&sent)).await;
            let problem = answer.json();
            assert_eq!(answer.status, 422, "{sent} {problem}");
            let named = |error: &Value| error["field"].as_str().unwrap().to_owned();
            let named: Vec<_> = problem["errors"].as_array().unwrap().iter().map(named).collect();
            assert_eq!(named, wrong, "{sent} {problem}");
        }
    }
    assert_eq!(world.rows().await, 1);
    let now = world.ask(Method::GET, &format!("/campaigns/{id}"), None).await.json();
    assert_eq!(now["budget"], 1);
}

#[tokio::test]
async fn wrong_parameters_and_reports_are_named() {
    let world = World::with(&["a"]).await;
    let long = "x".repeat(300);
    for (path, field) in [
        (format!("/ads?region={long}"), "region"),
        ("/ads?category=%00".to_owned(), "category"),
        ("/ads?limit=0".to_owned(), "limit"),
        ("/ads?limit=101".to_owned(), "limit"),
        ("/ads?near=here".to_owned(), "near"),
        (format!("/campaigns/{long}"), "id"),
    ] {
        let answer = world.ask(Method::GET, &path, None).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["errors"][0]["field"]),
            (400, &json!(field)),
            "{path}"
        );
    }
    let many: Vec<_> = (0..101).map(|n| n.to_string()).collect();
    for (body, field) in [
        (json!({"campaigns": []}), "campaigns"),
        (json!({"campaigns": many}), "campaigns"),
        (json!({"campaigns": ["a", ""]}), "campaigns[1]"),
        (json!({}), "campaigns"),
    ] {
        let answer = world.ask(Method::POST, "/ads/shown", Some(&body)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["errors"][0]["field"]),
            (422, &json!(field)),
            "{body}"
        );
    }
}
