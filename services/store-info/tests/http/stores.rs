//! A store's life.

use serde_json::{Value, json};

use crate::support::{Answer, Api};

const FIELDS: [&str; 12] = [
    "address",
    "category",
    "delivery_fee",
    "description",
    "id",
    "menus",
    "min_order_amount",
    "name",
    "neighbourhood",
    "open",
    "phone",
    "region",
];

/// Every text as long as it may be, of characters that JSON writes in four bytes, or in twelve.
#[tokio::test]
async fn the_largest_store_is_taken_in_each_encoding() {
    let api = Api::start().await;
    let long = |chars| "🍜".repeat(chars);
    let menus: Vec<_> = (0..200).map(|_| json!({"name": long(100), "price": 1})).collect();
    let store = json!({
        "name": long(200), "category": long(100), "region": long(100), "neighbourhood": long(100),
        "address": long(300), "phone": long(50), "description": long(2_000), "menus": menus,
    });
    let plain = store.to_string();
    let escaped = plain.replace('🍜', "\\ud83c\\udf5c");
    assert!(escaped.len() > 256 * 1024, "{}", escaped.len());
    for (id, body) in [("plain", plain), ("escaped", escaped)] {
        let request = api.request("PUT", &format!("/stores/{id}"));
        let request = request.header("Content-Type", "application/json").body(body.clone());
        assert_eq!(Answer::of(request).await.status, 201, "{id}");
        let line = body.replacen('{', &format!("{{\"id\": \"{id}\", "), 1);
        let report = api.import(format!("{line}\n")).await;
        assert_eq!(report.json["unchanged"], 1, "{id}: {}", report.json["rejected"]);
    }
}

#[tokio::test]
async fn a_store_is_created_read_replaced_and_deleted() {
    let api = Api::start().await;
    let menus = json!([{"name": "잔치국수", "price": 7000}, {"name": "손만두", "price": 0}]);
    let created =
        api.send("POST", "/stores", json!({"id": "42", "name": "달빛국수", "menus": menus})).await;
    assert_eq!((created.status, created.header("Location")), (201, "/stores/42"));
    let mut fields: Vec<_> = created.json.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, FIELDS);
    assert_eq!((&created.json["open"], &created.json["menus"]), (&json!(true), &menus));

    let read = api.get("/stores/42").await;
    assert_eq!((read.status, &read.json), (200, &created.json));
    assert_eq!(read.version(), created.version());

    let replaced = api.send("PUT", "/stores/42", json!({"name": "달빛", "open": false})).await;
    assert_eq!(replaced.status, 200);
    assert_eq!((&replaced.json["open"], &replaced.json["menus"]), (&json!(false), &json!([])));
    assert_eq!(api.get("/stores/42").await.json, replaced.json);

    let deleted = api.delete("/stores/42").await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    assert!(created.version() < replaced.version() && replaced.version() < deleted.version());
    for (answer, id) in [(created, "42"), (replaced, "42"), (deleted, "42")] {
        let token = format!("store/{id}@{}", answer.version());
        assert_eq!(answer.header("Nudge-Token"), token);
    }
}

#[tokio::test]
async fn what_never_was_is_404_and_what_was_deleted_is_410() {
    let api = Api::start().await;
    let ask = async |status| {
        api.get("/stores/1").await.assert_problem(status, "");
        api.send("PATCH", "/stores/1", json!({})).await.assert_problem(status, "");
        api.delete("/stores/1").await.assert_problem(status, "");
    };
    ask(404).await;
    assert_eq!(api.send("PUT", "/stores/1", json!({"name": "a"})).await.status, 201);
    let deleted = api.delete("/stores/1").await;
    ask(410).await;

    let revived = api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    assert_eq!(revived.status, 201);
    assert!(revived.version() > deleted.version());
    let deleted = api.delete("/stores/1").await;
    let created = api.send("POST", "/stores", json!({"id": "1", "name": "a"})).await;
    assert_eq!(created.status, 201);
    assert!(created.version() > deleted.version());
    api.send("POST", "/stores", json!({"id": "1", "name": "b"})).await.assert_problem(409, "id");
    assert_eq!(api.get("/stores/1").await.json["name"], "a");
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version_and_publishes_nothing() {
    let api = Api::start().await;
    let store = json!({"name": "a", "menus": [{"name": "m", "price": 1}]});
    let first = api.send("PUT", "/stores/1", store.clone()).await;
    let before = api.everything().await;
    let again = api.send("PUT", "/stores/1", store).await;
    let patched = api.send("PATCH", "/stores/1", json!({"name": "a", "phone": null})).await;
    for same in [again, patched] {
        assert_eq!((same.status, same.version()), (200, first.version()));
        assert_eq!(same.header("Nudge-Token"), first.header("Nudge-Token"));
        assert_eq!(same.json, first.json);
    }
    assert_eq!(api.everything().await, before);
    // The order of menus is the owner's choice: another order is another state.
    let two = json!([{"name": "a", "price": 1}, {"name": "b", "price": 1}]);
    let swapped = json!([{"name": "b", "price": 1}, {"name": "a", "price": 1}]);
    let two = api.send("PATCH", "/stores/1", json!({"menus": two})).await;
    let swapped = api.send("PATCH", "/stores/1", json!({"menus": swapped})).await;
    assert!(swapped.version() > two.version());
    assert_eq!(api.get("/stores/1").await.json["menus"][0]["name"], "b");
}

#[tokio::test]
async fn an_id_is_made_when_none_is_given() {
    let api = Api::start().await;
    let first = api.send("POST", "/stores", json!({"name": "a"})).await;
    let second = api.send("POST", "/stores", json!({"name": "a"})).await;
    let ids = [&first, &second].map(|answer| answer.json["id"].as_str().unwrap().to_owned());
    // Version 7: the digit after the second dash, and later ids sort later.
    assert!(ids.iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'7'), "{ids:?}");
    assert!(ids[0] < ids[1]);
    assert_eq!(first.header("Location"), format!("/stores/{}", ids[0]));
    assert_eq!(api.get(first.header("Location")).await.status, 200);
}

#[tokio::test]
async fn the_list_is_paged_in_bytewise_order() {
    let api = Api::start().await;
    // Upper case before lower case, one digit before two: bytes, not words or numbers.
    let ids = ["10", "9", "A", "a", "가"];
    for id in ids.iter().rev() {
        assert_eq!(api.send("POST", "/stores", json!({"id": id, "name": "x"})).await.status, 201);
    }
    let of = |page: &Answer| -> Vec<String> {
        let items = page.json["items"].as_array().unwrap();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut seen = Vec::new();
    let mut page = api.get("/stores?limit=2").await;
    loop {
        seen.extend(of(&page));
        let Some(next) = page.json["next"].as_str().map(str::to_owned) else {
            break;
        };
        let request =
            api.request("GET", "/stores").query(&[("after", next.as_str()), ("limit", "2")]);
        page = Answer::of(request).await;
    }
    assert_eq!(seen, ids);
    let exact = api.get("/stores?limit=5").await;
    assert_eq!((of(&exact).len(), &exact.json["next"]), (5, &Value::Null));
    assert_eq!(of(&api.get("/stores?after=9").await), &ids[2..]);
    assert_eq!(of(&api.get("/stores?after=&limit=500").await), ids);
    api.delete("/stores/A").await;
    assert_eq!(of(&api.get("/stores").await), ["10", "9", "a", "가"]);
}

#[tokio::test]
async fn fifty_stores_are_a_page_when_no_limit_is_given() {
    let api = Api::start().await;
    let lines: String = (0..60).map(|n| format!("{{\"id\":\"{n}\",\"name\":\"a\"}}\n")).collect();
    assert_eq!(api.import(lines).await.status, 200);
    let page = api.get("/stores").await;
    assert_eq!(page.json["items"].as_array().unwrap().len(), 50);
    assert_eq!(page.json["next"], page.json["items"][49]["id"]);
}

#[tokio::test]
async fn a_wrong_page_is_400_and_names_the_parameter() {
    let api = Api::start().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("after=%00", "after"),
        ("page=2", "page"),
    ] {
        api.get(&format!("/stores?{query}")).await.assert_problem(400, field);
    }
    let long = "a".repeat(201);
    api.get(&format!("/stores?after={long}")).await.assert_problem(400, "after");
}

#[tokio::test]
async fn writes_at_the_same_time_lose_nothing() {
    let api = Api::start().await;
    let post = |_| api.send("POST", "/stores", json!({"id": "1", "name": "a"}));
    let posts = futures_util::future::join_all((0..8).map(post)).await;
    let mut statuses: Vec<_> = posts.iter().map(|answer| answer.status).collect();
    statuses.sort();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);

    let fields = ["category", "region", "address", "neighbourhood", "phone", "description"];
    let patch = |field: &'static str| api.send("PATCH", "/stores/1", json!({field: "set"}));
    let patches = futures_util::future::join_all(fields.map(patch)).await;
    let store = api.get("/stores/1").await;
    assert!(fields.iter().all(|field| store.json[*field] == "set"), "{store:?}");
    let versions: std::collections::HashSet<_> = patches.iter().map(Answer::version).collect();
    assert_eq!(versions.len(), fields.len());
    assert_eq!(versions.into_iter().max(), Some(store.version()));
}
