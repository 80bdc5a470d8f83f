//! The view as GraphQL.

use serde_json::{Value, json};

use crate::support::{Way, World};

const JSON: &str = "application/json";
const BY_STATUS: &str = "application/graphql-response+json";

#[tokio::test]
async fn a_store_is_answered_with_what_was_asked_for() {
    let world = World::new().await;
    let menus = json!([{"name": "잔치국수", "price": 7_000}]);
    let fields =
        json!({"name": "달빛국수", "delivery_fee": 3_000, "menus": menus, "phone": "02-123"});
    world.put_store("42", fields).await;
    for (id, rating) in [("r1", 5), ("r2", 4), ("r3", 4)] {
        world.review(id, "42", rating).await;
    }
    let query = "{
        store(id: \"42\") {
            id name open deliveryFee phone version menus { name price } rating { average count }
            newestReviews(first: 2) { id rating text author createdAt }
        }
        gone: store(id: \"gone\") { id }
    }";
    let review = |id, rating| {
        json!({
            "id": id, "rating": rating, "text": "맛있어요", "author": "민지",
            "createdAt": "2026-01-01T00:00:00.000000Z",
        })
    };
    assert_eq!(
        world.query(query).await,
        json!({"data": {
            "store": {
                "id": "42", "name": "달빛국수", "open": true, "deliveryFee": 3_000, "phone": "02-123",
                "version": "1", "menus": menus, "rating": {"average": 4.33, "count": 3},
                "newestReviews": [review("r3", 4), review("r2", 4)],
            },
            "gone": null,
        }})
    );
}

#[tokio::test]
async fn stores_have_the_order_of_their_ids_and_those_that_do_not_exist_are_left_out() {
    let world = World::with_stores(&["a", "b", "gone"]).await;
    world.stores.delete("gone").await;
    let answer = world.query("{ stores(ids: [\"b\", \"nobody\", \"gone\", \"a\"]) { id } }").await;
    assert_eq!(answer, json!({"data": {"stores": [{"id": "b"}, {"id": "a"}]}}));
}

#[tokio::test]
async fn lists_are_those_of_their_sources_or_say_that_they_are_not() {
    let world = World::with_stores(&["a", "b"]).await;
    world.source.chooses(&["b", "new"], Some("on"));
    let fields = "items { id } unknown next fallback { reason basis ageMs cutOff }";
    let query = format!(
        "{{ search(q: \"x\", open: true, limit: 2) {{ {fields} }} ads(region: \"y\") {{ {fields} }} \
         favourites(user: \"kim\", after: \"z\") {{ {fields} }} }}"
    );
    let answer = world.query(&query).await;
    let list = json!({"items": [{"id": "b"}], "unknown": ["new"], "next": "on", "fallback": null});
    assert_eq!(answer, json!({"data": {"search": list, "ads": list, "favourites": list}}));
    let mut asked = world.source.asked();
    asked.sort();
    let expected = [
        "/ads?region=y&limit=20",
        "/stores?q=x&open=true&limit=2",
        "/users/kim/favourites?after=z&limit=20",
    ];
    assert_eq!(asked, expected);
    world.source.now(Way::Says(500, ""));
    let answer = world.query(&format!("{{ ads(limit: 1) {{ {fields} }} }}")).await;
    let ads = &answer["data"]["ads"];
    assert_eq!((&ads["items"], &ads["next"]), (&json!([{"id": "a"}]), &Value::Null));
    let fallback = &ads["fallback"];
    assert_eq!(
        (&fallback["reason"], &fallback["basis"], &fallback["cutOff"]),
        (&json!("FAILED"), &json!("VIEW"), &json!(true))
    );
    assert!(fallback["ageMs"].as_f64().unwrap() >= 60_000.0);
}

/// The rest of the request is answered.
#[tokio::test]
async fn what_is_wrong_with_one_field_is_an_error_at_its_path() {
    let world = World::with_stores(&["a"]).await;
    let refused = json!({"errors": [{"field": "cursor", "detail": "must be another"}]});
    world.source.now(Way::Answers(400, refused));
    let many: Vec<_> = (0..101).map(|n| format!("\"{n}\"")).collect();
    for (field, named) in [
        ("wrong: search(limit: 0) { next }".to_owned(), "limit"),
        ("wrong: search(limit: -1) { next }".to_owned(), "limit"),
        ("wrong: search(limit: 101) { next }".to_owned(), "limit"),
        ("wrong: search(region: \"\\u0000\") { next }".to_owned(), "region"),
        ("wrong: search(cursor: \"x\") { next }".to_owned(), "cursor"),
        ("wrong: favourites(user: \"..\") { next }".to_owned(), "user"),
        ("wrong: store(id: \"\") { id }".to_owned(), "id"),
        ("wrong: store(id: \"a\") { newestReviews(first: 11) { id } }".to_owned(), "first"),
        ("wrong: store(id: \"a\") { newestReviews(first: -1) { id } }".to_owned(), "first"),
    ] {
        let answer = world.query(&format!("{{ store(id: \"a\") {{ name }} {field} }}")).await;
        assert_eq!(answer["data"]["store"]["name"], "a", "{answer}");
        assert_eq!(answer["data"]["wrong"], Value::Null, "{answer}");
        let error = &answer["errors"][0];
        assert_eq!(error["path"][0], "wrong", "{answer}");
        let extensions = &error["extensions"];
        assert_eq!(
            (&extensions["code"], &extensions["errors"][0]["field"]),
            (&json!("BAD_REQUEST"), &json!(named)),
            "{answer}"
        );
    }
    let answer = world.query(&format!("{{ stores(ids: [{}]) {{ id }} }}", many.join(","))).await;
    assert_eq!(answer["errors"][0]["extensions"]["errors"][0]["field"], "ids", "{answer}");
}

#[tokio::test]
async fn a_request_that_cannot_be_executed_is_answered_in_graphqls_form() {
    let world = World::with_stores(&["a"]).await;
    let nested = |times| format!("{{ __schema {{ types {} }} }}", deep(times));
    let lists = (0..10).map(|n| format!("l{n}: search(limit: 1) {{ next }}")).collect::<String>();
    let full = "{ search(limit: 100) { items { id newestReviews { id text rating author createdAt } menus { name price } \
                a: newestReviews { id text rating author } } } }";
    for (query, said) in [
        ("{".to_owned(), "expected"),
        (String::new(), "expected"),
        ("{ nothing }".to_owned(), "nothing"),
        ("{ store { id } }".to_owned(), "id"),
        ("mutation { store }".to_owned(), "mutation"),
        (
            "query A { store(id: \"a\") { id } } query B { store(id: \"a\") { id } }".to_owned(),
            "Operation name",
        ),
        ("{ ...f } fragment f on Query { ...f }".to_owned(), "f"),
        (nested(8), "nested too deep"),
        (format!("{{ {lists} }}"), "too complex"),
        (full.to_owned(), "too complex"),
    ] {
        let body = json!({ "query": query }).to_string();
        let answer = world.post(body.clone(), JSON, "").await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let answer = answer.json();
        assert_eq!(answer.get("data"), None, "{query}: {answer}");
        let message = answer["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(said), "{query}: {message}");
        // With the media type that has a status for it.
        let accept = format!("text/html;q=0.1, {BY_STATUS};q=0.9");
        assert_eq!(world.post(body, JSON, &accept).await.status, 400, "{query}");
    }
    assert_eq!(world.source.asked(), [""; 0]);
    let one = json!({"query": "{ store(id: \"a\") { id } }"}).to_string();
    assert_eq!(world.post(one, JSON, BY_STATUS).await.status, 200);
}

fn deep(times: usize) -> String {
    match times {
        0 => "{ name }".to_owned(),
        _ => format!("{{ fields {{ type {} }} }}", deep(times - 1)),
    }
}

#[tokio::test]
async fn a_full_page_of_stores_is_within_the_limits() {
    let world = World::with_stores(&["a"]).await;
    world.source.chooses(&["a"], None);
    let query = "{ search(limit: 100) { next items { id name category region neighbourhood open minOrderAmount \
                 deliveryFee version address phone description rating { average count } menus { name price } \
                 newestReviews { id rating text author createdAt } } } }";
    let answer = world.query(query).await;
    assert_eq!(answer["errors"], Value::Null, "{answer}");
}

/// What tools send to learn the schema.
#[tokio::test]
async fn introspection_is_allowed() {
    let world = World::new().await;
    let of_type =
        (0..9).fold("name".to_owned(), |inner, _| format!("kind name ofType {{ {inner} }}"));
    let query = format!(
        "{{ __schema {{ queryType {{ name }} types {{ name fields {{ name args {{ name type {{ {of_type} }} }} }} }} }} }}"
    );
    let answer = world.query(&query).await;
    assert_eq!(answer["data"]["__schema"]["queryType"]["name"], "Query", "{answer}");
}

#[tokio::test]
async fn variables_and_operation_names_are_taken() {
    let world = World::with_stores(&["a", "b"]).await;
    let body = json!({
        "query": "query One($id: ID!) { store(id: $id) { name } } query Other { store(id: \"a\") { id } }",
        "operationName": "One", "variables": {"id": "b"}, "extensions": {"anything": 1},
    });
    let answer = world.post(body.to_string(), JSON, "").await;
    assert_eq!(answer.json(), json!({"data": {"store": {"name": "b"}}}));
}

#[tokio::test]
async fn what_is_no_request_is_a_problem() {
    let world = World::new().await;
    let large = json!({"query": " ".repeat(70_000)}).to_string();
    for (body, media_type, status, field) in [
        ("{}".to_owned(), JSON, 422, "query"),
        ("[]".to_owned(), JSON, 422, "body"),
        (r#"{"query": 7}"#.to_owned(), JSON, 422, "query"),
        (r#"{"query": "{ a }", "variables": 7}"#.to_owned(), JSON, 422, "variables"),
        ("{ store }".to_owned(), JSON, 400, "body"),
        (large, JSON, 413, "body"),
        (r#"{"query": "{ a }"}"#.to_owned(), "application/graphql", 415, "Content-Type"),
    ] {
        let answer = world.post(body, media_type, "").await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &problem["errors"][0]["field"]),
            (status, &json!(field)),
            "{problem}"
        );
    }
}
