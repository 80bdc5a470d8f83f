//! `GET /sync/v1/thing/{id}` and `POST /sync/v1/thing/items`: one entity, and all of them in order.

use nudge_protocol::{
    EntityId, Timestamp,
    subject::encode_token,
    sync_api::{DEFAULT_ITEMS_LIMIT, ItemVersion, ItemsPage, MAX_ITEMS_LIMIT},
};
use nudge_tests::{Owner, id};
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::publisher::support::execute;

async fn get(owner: &Owner, token: &str, if_none_match: Option<&str>) -> Response {
    let url = format!("{}/sync/v1/thing/{token}", owner.url());
    let mut request = reqwest::Client::new().get(url);
    if let Some(etag) = if_none_match {
        request = request.header(header::IF_NONE_MATCH, etag);
    }
    let response = request.send().await.unwrap();
    // A cached answer would be an older state that cannot be recognised.
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store", "{response:?}");
    response
}

async fn problem(response: Response, status: u16) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    response.json().await.unwrap()
}

async fn items(owner: &Owner, body: &Value) -> Response {
    let url = format!("{}/sync/v1/thing/items", owner.url());
    reqwest::Client::new().post(url).json(body).send().await.unwrap()
}

async fn page(owner: &Owner, body: &Value) -> ItemsPage {
    let response = items(owner, body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    response.json().await.unwrap()
}

/// Every page, `limit` rows at a time.
async fn walk(owner: &Owner, limit: usize) -> Vec<Vec<ItemVersion>> {
    let (mut pages, mut after) = (Vec::new(), None::<EntityId>);
    loop {
        let mut body = json!({ "limit": limit });
        if let Some(after) = &after {
            body["after"] = json!(after);
        }
        let page = page(owner, &body).await;
        pages.push(page.items);
        assert!(pages.len() < 100, "the walk goes round in circles");
        match page.next {
            Some(next) => after = Some(next),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn an_entity_is_answered_with_its_version_as_etag() {
    let owner = Owner::start_silent().await;
    let before = nudge_runtime::clock::now();
    let version = owner.put("42", json!({"name": "가"})).await.version;
    let response = get(&owner, "42", None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::ETAG], format!("\"{version}\""));
    let mut body: Value = response.json().await.unwrap();
    let changed_at: Timestamp = body["changed_at"].as_str().unwrap().parse().unwrap();
    assert!(before <= changed_at && changed_at <= nudge_runtime::clock::now());
    body.as_object_mut().unwrap().remove("changed_at");
    assert_eq!(body, json!({"id": "42", "version": version, "state": {"name": "가"}}));
}

#[tokio::test]
async fn whoever_has_the_current_version_is_told_so_and_others_get_the_new_state() {
    let owner = Owner::start_silent().await;
    let old = format!("\"{}\"", owner.put("42", json!({})).await.version);
    let weak_among_others = format!("\"1\", W/{old}");
    for condition in [&old, &weak_among_others, "*"] {
        let response = get(&owner, "42", Some(condition)).await;
        assert_eq!(response.status(), 304, "{condition}");
        assert_eq!(response.headers()[header::ETAG], old);
        assert!(response.bytes().await.unwrap().is_empty());
    }
    let new = format!("\"{}\"", owner.put("42", json!({})).await.version);
    let response = get(&owner, "42", Some(&old)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::ETAG], new);
    // A caller with the last state of a deleted thing must not be told that nothing changed.
    owner.delete("42").await;
    assert_eq!(get(&owner, "42", Some(&new)).await.status(), 410);
}

#[tokio::test]
async fn a_deleted_entity_is_gone_with_a_version_and_an_unknown_one_is_not_found() {
    let owner = Owner::start_silent().await;
    owner.put("42", json!({})).await;
    let version = owner.delete("42").await.version;
    let response = get(&owner, "42", None).await;
    assert_eq!(response.status(), 410);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({"id": "42", "version": version, "deleted": true}));
    problem(get(&owner, "43", None).await, 404).await;
    owner.put("44", json!({})).await;
    execute(&owner.db, "DELETE FROM thing").await;
    problem(get(&owner, "44", None).await, 404).await;
}

#[tokio::test]
async fn every_id_can_be_asked_for_those_with_a_meaning_in_paths_too() {
    let owner = Owner::start_silent().await;
    let long = "가".repeat(66) + "ab";
    let ids =
        ["a/b", "a b", "%", "%2F", "?x=1", "#", "강남", "items", "batch-get", "digest", &long];
    owner.put_all(&ids.map(|id| (id, json!({ "name": id })))).await;
    for text in ids {
        let response = get(&owner, &encode_token(&id(text)), None).await;
        assert_eq!(response.status(), 200, "{text}");
        let body: Value = response.json().await.unwrap();
        assert_eq!((&body["id"], &body["state"]["name"]), (&json!(text), &json!(text)));
    }
}

#[tokio::test]
async fn what_is_no_id_is_refused_as_a_problem_that_says_so() {
    let owner = Owner::start_silent().await;
    let too_long = "x".repeat(201);
    for token in ["%FF", "%00", "a%0Ab", &too_long] {
        let problem = problem(get(&owner, token, None).await, 400).await;
        assert_eq!(problem["errors"][0]["field"], "id", "{token}");
    }
}

#[tokio::test]
async fn every_entity_is_listed_once_in_bytewise_order_tombstones_included() {
    let owner = Owner::start_silent().await;
    let mut expected = Vec::new();
    for text in ["z", "a", "나", "10", "9", "가", "B", "é", "~", "\u{1f980}", "\u{ffdc}", " "] {
        let mut version = owner.put(text, json!({})).await.version;
        let deleted = ["10", "나", "z"].contains(&text);
        if deleted {
            version = owner.delete(text).await.version;
        }
        expected.push((text.to_owned(), version, deleted));
    }
    expected.sort();
    // 1, and limits that divide the twelve rows and that do not.
    for (limit, lengths) in [(1, vec![1; 12]), (5, vec![5, 5, 2]), (6, vec![6, 6]), (12, vec![12])]
    {
        let pages = walk(&owner, limit).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
        let listed = pages.into_iter().flatten();
        let listed: Vec<_> = listed.map(|i| (i.id.to_string(), i.version, i.deleted)).collect();
        assert_eq!(listed, expected, "limit {limit}");
    }
}

#[tokio::test]
async fn a_page_begins_after_any_id_whether_it_exists_or_not() {
    let owner = Owner::start_silent().await;
    owner.put_all(&["a", "c", "e"].map(|id| (id, json!({})))).await;
    for (after, expected) in [("b", vec!["c", "e"]), ("c", vec!["e"]), ("e", vec![])] {
        let page = page(&owner, &json!({ "after": after })).await;
        assert_eq!(page.items.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(page.next, None);
    }
}

#[tokio::test]
async fn the_number_of_rows_asked_for_is_bounded() {
    let owner = Owner::start_silent().await;
    let ids: Vec<_> = (0..=MAX_ITEMS_LIMIT).map(|n| n.to_string()).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({}))).collect();
    owner.put_all(&things).await;
    assert_eq!(page(&owner, &json!({})).await.items.len(), DEFAULT_ITEMS_LIMIT);
    let most = page(&owner, &json!({ "limit": MAX_ITEMS_LIMIT })).await;
    assert_eq!(most.items.len(), MAX_ITEMS_LIMIT);
    assert_eq!(most.next.as_ref(), most.items.last().map(|last| &last.id));
    for (body, field) in [
        (json!({ "limit": 0 }), "limit"),
        (json!({ "limit": MAX_ITEMS_LIMIT + 1 }), "limit"),
        (json!({ "limit": -1 }), "limit"),
        (json!({ "after": "" }), "after"),
        (json!({ "from": "a" }), "from"),
    ] {
        let problem = problem(items(&owner, &body).await, 422).await;
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
    }
}
