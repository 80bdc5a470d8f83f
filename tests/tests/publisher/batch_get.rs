//! `POST /sync/v1/thing/batch-get`: one snapshot, bounded.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use nudge_protocol::{
    Change, EntityId,
    sync_api::{BatchGetAnswer, Item, ItemStatus, MAX_BATCH_IDS, MAX_FIELDS},
};
use nudge_publisher::sync_api::MAX_BATCH_STATE_BYTES;
use nudge_runtime::{BoxError, Tx};
use nudge_subscriber_kit::testing;
use nudge_tests::{Owner, id};
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::publisher::support::execute;

async fn post(owner: &Owner, body: &Value) -> Response {
    let url = format!("{}/sync/v1/thing/batch-get", owner.url());
    let request = reqwest::Client::new().post(url).json(body);
    request.send().await.unwrap()
}

async fn batch_get(owner: &Owner, body: &Value) -> Vec<Item> {
    let response = post(owner, body).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    response.json::<BatchGetAnswer>().await.unwrap().items
}

fn state(item: &Item) -> Value {
    serde_json::from_str(item.state.as_ref().expect("a state").get()).unwrap()
}

/// The problem of a refused request: the status, and the field that it names.
async fn refused(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["errors"][0]["field"].clone())
}

#[tokio::test]
async fn live_deleted_and_unknown_are_told_apart_and_each_id_is_answered_once() {
    let owner = Owner::start_silent().await;
    let live = owner.put("live", json!({"name": "가"})).await.version;
    owner.put("deleted", json!({})).await;
    let deleted = owner.delete("deleted").await.version;
    let ids = json!({"ids": ["unknown", "live", "deleted", "live", "unknown"]});
    let mut items = batch_get(&owner, &ids).await;
    items.sort_by(|a, b| a.id.cmp(&b.id));
    let said: Vec<_> =
        items.iter().map(|item| (item.id.as_str(), item.status, item.version)).collect();
    let expected = [
        ("deleted", ItemStatus::Deleted, Some(deleted)),
        ("live", ItemStatus::Live, Some(live)),
        ("unknown", ItemStatus::Unknown, None),
    ];
    assert_eq!(said, expected);
    assert_eq!(state(&items[1]), json!({"name": "가"}));
    assert!(items[0].state.is_none() && items[2].state.is_none());
    assert!(items[0].changed_at.is_some() && items[1].changed_at.is_some());
    assert!(items[2].changed_at.is_none());
}

#[tokio::test]
async fn an_entity_that_is_back_has_its_new_state_and_version() {
    let owner = Owner::start_silent().await;
    owner.put("42", json!({"n": 1})).await;
    owner.delete("42").await;
    let back = owner.put("42", json!({"n": 2})).await.version;
    let items = batch_get(&owner, &json!({"ids": ["42"]})).await;
    assert_eq!((items[0].status, items[0].version), (ItemStatus::Live, Some(back)));
    assert_eq!(state(&items[0]), json!({"n": 2}));
}

/// A subscriber that got a state with a newer state's version would keep the old state forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_and_version_belong_together_while_a_writer_writes() {
    let owner = Owner::start_silent().await;
    let ids = ["1", "2", "3"];
    let written = AtomicBool::new(false);
    let write = async {
        while !written.load(Ordering::Relaxed) {
            // One transaction writes all three, each with its own version in its body.
            let mut tx = owner.publisher.begin().await.unwrap();
            for text in ids {
                let change = Change::Updated;
                let version = owner.publisher.record(&mut tx, &id(text), change).await.unwrap();
                let sql = "INSERT INTO thing VALUES ($1, $2) \
                           ON CONFLICT (id) DO UPDATE SET body = excluded.body";
                let body = json!({ "version": version }).to_string();
                let query = sqlx::query(sql).bind(text.to_owned()).bind(body);
                query.execute(&mut *tx).await.unwrap();
            }
            owner.publisher.commit(tx).await.unwrap();
        }
    };
    let read = async {
        let (mut seen, mut reads) = (std::collections::BTreeSet::new(), 0);
        // Enough reads, enough of which fell between different writes.
        while reads < 200 || seen.len() < 20 {
            for item in batch_get(&owner, &json!({ "ids": ids })).await {
                if item.status == ItemStatus::Live {
                    let version = item.version.unwrap();
                    assert_eq!(state(&item)["version"], version.get(), "read {reads}");
                    seen.insert(version);
                }
            }
            reads += 1;
        }
        written.store(true, Ordering::Relaxed);
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn one_to_512_ids_are_taken() {
    let owner = Owner::start_silent().await;
    let ids = |count: usize| json!({"ids": (0..count).map(|n| n.to_string()).collect::<Vec<_>>()});
    for count in [0, MAX_BATCH_IDS + 1] {
        let refused = refused(post(&owner, &ids(count)).await).await;
        assert_eq!(refused, (422, json!("ids")), "{count} ids");
    }
    assert_eq!(MAX_BATCH_IDS, 512);
    assert_eq!(batch_get(&owner, &ids(MAX_BATCH_IDS)).await.len(), MAX_BATCH_IDS);
    // The longest IDs possible, each with the most bytes in JSON.
    let longest = |n: usize| format!("{n:03}{}", "\\\"".repeat(98) + "x");
    let body = json!({"ids": (0..MAX_BATCH_IDS).map(longest).collect::<Vec<_>>()});
    assert_eq!(batch_get(&owner, &body).await.len(), MAX_BATCH_IDS);
}

#[tokio::test]
async fn requests_of_another_shape_are_refused_by_the_name_of_the_field() {
    let owner = Owner::start_silent().await;
    let too_long = "x".repeat(201);
    let names = vec!["name"; MAX_FIELDS + 1];
    for (body, field) in [
        (json!({"ids": ["1"], "field": ["name"]}), "field"),
        (json!({"ids": ["1"], "fields": names}), "fields"),
        (json!({"ids": ["1"], "fields": "name"}), "fields"),
        (json!({"ids": ["1", ""]}), "ids[1]"),
        (json!({"ids": ["line\nbreak"]}), "ids[0]"),
        (json!({"ids": [too_long]}), "ids[0]"),
        (json!({"ids": [1]}), "ids[0]"),
        (json!({}), "ids"),
    ] {
        assert_eq!(refused(post(&owner, &body).await).await, (422, json!(field)), "{body}");
    }
}

#[tokio::test]
async fn only_the_fields_asked_for_are_answered_and_their_text_is_kept() {
    let owner = Owner::start_silent().await;
    let body = json!({"name": "가", "fee": 1.50, "menus": [{"name": "나"}], "open": null});
    let version = owner.put("42", body).await.version;
    for (fields, expected) in [
        (json!(["name", "menus"]), json!({"name": "가", "menus": [{"name": "나"}]})),
        (json!(["open", "colour"]), json!({"open": null})),
        (json!([]), json!({})),
    ] {
        let items = batch_get(&owner, &json!({"ids": ["42"], "fields": fields})).await;
        assert_eq!(state(&items[0]), expected);
        assert_eq!(items[0].version, Some(version));
    }
    // 12345678901234567890.10 cannot be represented as a double.
    execute(&owner.db, r#"UPDATE thing SET body = '{"fee": 12345678901234567890.10}'"#).await;
    for fields in [json!(null), json!(["fee"])] {
        let items = batch_get(&owner, &json!({"ids": ["42"], "fields": fields})).await;
        let text = items[0].state.as_ref().unwrap().get();
        assert!(text.contains("12345678901234567890.10"), "{text}");
    }
}

#[tokio::test]
async fn beyond_the_byte_budget_fewer_are_answered_but_never_none() {
    let owner = Owner::start_silent().await;
    let body = |bytes: usize| json!({"text": "x".repeat(bytes)});
    let third = MAX_BATCH_STATE_BYTES / 3;
    let things = [
        ("1", body(third)),
        ("2", body(third)),
        ("3", body(third)),
        ("4", body(MAX_BATCH_STATE_BYTES + 1)),
        ("5", body(10)),
    ];
    owner.put_all(&things).await;
    // Asking again for the rest, as a subscriber does, ends.
    let mut rest: Vec<_> = things.iter().map(|(id, _)| (*id).to_owned()).collect();
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let items = batch_get(&owner, &json!({ "ids": rest })).await;
        let answered: Vec<_> = items.iter().map(|item| item.id.to_string()).collect();
        assert!(!answered.is_empty(), "nothing of {rest:?}");
        assert!(items.iter().all(|item| item.status == ItemStatus::Live));
        rest.retain(|id| !answered.contains(id));
        answers.push(answered);
    }
    assert_eq!(answers, [vec!["1", "2"], vec!["3"], vec!["4"], vec!["5"]]);
}

#[tokio::test]
async fn an_entity_removed_past_the_change_log_is_unknown_and_not_deleted() {
    let owner = Owner::start_silent().await;
    owner.put("42", json!({})).await;
    execute(&owner.db, "DELETE FROM thing").await;
    let items = batch_get(&owner, &json!({"ids": ["42"]})).await;
    assert_eq!((items[0].status, items[0].version), (ItemStatus::Unknown, None));
}

/// An owner whose states, except that of `good`, cannot be written as JSON.
struct Nameless;

impl nudge_publisher::Owner for Nameless {
    type State = BTreeMap<(u8, u8), u8>;

    async fn states(
        &self,
        _: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Self::State)>, BoxError> {
        let state = |id: &EntityId| match id.as_str() {
            "good" => BTreeMap::new(),
            _ => BTreeMap::from([((1, 2), 3)]),
        };
        Ok(ids.iter().map(|id| (id.clone(), state(id))).collect())
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_written_as_json_spoils_no_other() {
    let owner = Owner::start_silent().await;
    for thing in ["bad", "good"] {
        owner.put(thing, json!({})).await;
    }
    let routes = owner.publisher.sync_api(Nameless);
    let good = testing::get(routes.clone(), "/sync/v1/thing/good").await;
    assert_eq!((good.status.as_u16(), &good.json()["state"]), (200, &json!({})));
    assert_eq!(testing::get(routes.clone(), "/sync/v1/thing/bad").await.status, 500);
    let body = json!({"ids": ["bad", "good"]}).to_string();
    let request = axum::http::Request::post("/sync/v1/thing/batch-get")
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap();
    let answer = testing::ask(routes, request).await;
    let ids: Vec<_> =
        answer.json()["items"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, ["good"]);
}
