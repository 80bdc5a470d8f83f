use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path, Query},
    http::{Method as Verb, StatusCode, Uri},
    routing::{delete, get, post},
};
use parking_lot::Mutex;

use super::*;
use crate::{
    client::Service,
    roles::STATUS_PATH,
    stub::{self, Stubs},
};

type Log = Arc<Mutex<Vec<String>>>;

/// A subscriber that follows one entity.
fn follower(entity: &'static str) -> Router {
    let answer = json!({"entities": [{"entity": entity}]});
    Router::new().route(STATUS_PATH, get(async move || Json(answer)))
}

async fn empty() -> Json<serde_json::Value> {
    Json(json!({"items": [], "next": null}))
}

/// Rows that a search keeps, in pages of what is asked for; one of them cannot be removed.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeSet<String>>>);

impl Kept {
    async fn stubs(self) -> Stubs {
        let (removed, by_query) = (self.clone(), self.clone());
        let page = async move |Query(query): Query<HashMap<String, String>>| self.page(&query);
        let remove = async move |Path(id): Path<String>| removed.remove(&id);
        let remove_by_query =
            async move |Query(query): Query<HashMap<String, String>>| by_query.remove(&query["id"]);
        let search = follower("store")
            .route(PATH, get(page))
            .route(&format!("{PATH}/store/{{id}}"), delete(remove))
            .route(&format!("{PATH}/discard"), post(remove_by_query));
        let review = follower("store").route(PATH, get(empty));
        stub::start([(Service::Search, search), (Service::Review, review)]).await
    }

    fn page(&self, query: &HashMap<String, String>) -> Json<serde_json::Value> {
        let after = query.get("after").cloned().unwrap_or_default();
        let limit: usize = query["limit"].parse().unwrap();
        let rows = self.0.lock();
        let mut ids: Vec<_> = rows.iter().filter(|id| **id > after).take(limit + 1).collect();
        let next = (ids.len() > limit).then(|| {
            ids.truncate(limit);
            json!({"entity": "store", "after": ids[limit - 1]})
        });
        let items: Vec<_> = ids.iter().map(|id| json!({"entity": "store", "id": id})).collect();
        Json(json!({"items": items, "next": next}))
    }

    fn remove(&self, id: &str) -> StatusCode {
        match id {
            "stubborn" => StatusCode::BAD_GATEWAY,
            _ if self.0.lock().remove(id) => StatusCode::NO_CONTENT,
            _ => StatusCode::NOT_FOUND,
        }
    }
}

/// A search with two pages of rows, and a review without any.
async fn subscribers_with_rows() -> (Stubs, Log) {
    let page = async |Query(query): Query<HashMap<String, String>>| {
        Json(match query.get("after").map(String::as_str) {
            None => json!({"items": [{"entity": "store", "id": "a/b", "floor": 7,
                "error": "no such\ncolumn", "attempts": 3,
                "first_failed_at": "2026-01-01T00:00:00Z",
                "last_failed_at": "2026-01-01T00:00:00Z", "next_at": null}],
                "next": {"entity": "store", "after": "a/b"}}),
            Some(_) => json!({"items": [{"entity": "store", "id": "c", "floor": 8, "error": "",
                "attempts": 1, "next_at": "2026-01-01T00:01:00Z"}], "next": null}),
        })
    };
    let log = Log::default();
    let noted = log.clone();
    let note = async move |verb: Verb, uri: Uri| {
        noted.lock().push(format!("{verb} {uri}"));
        StatusCode::ACCEPTED
    };
    let search = follower("store").route(PATH, get(page)).fallback(note);
    let review = follower("store").route(PATH, get(empty));
    (stub::start([(Service::Search, search), (Service::Review, review)]).await, log)
}

fn chosen(entity: Option<&str>, id: Option<&str>, all: bool) -> Chosen {
    let entity = entity.map(|entity| entity.parse().unwrap());
    let which = Which { subscriber: "all".into(), entity, id: id.map(|id| id.parse().unwrap()) };
    Chosen { which, all }
}

#[tokio::test]
async fn every_page_is_listed() {
    let (stub, _) = subscribers_with_rows().await;
    let which = chosen(None, None, true).which;
    let mut pages = Pages::new(&which, stub.api.of(Service::Search));
    let mut rows = Vec::new();
    while let Some(page) = pages.next(&stub.api).await.unwrap() {
        rows.extend(page);
    }
    let lines = show(&rows, "2026-01-01T00:00:30Z".parse().unwrap());
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[1].ends_with("30.0 s ago  only by replay  no such column"), "{lines:#?}");
    assert!(lines[2].contains("in 30.0 s"), "{lines:#?}");
}

#[tokio::test]
async fn one_is_replayed_under_its_encoded_id() {
    let (stub, log) = subscribers_with_rows().await;
    let chosen = chosen(Some("store"), Some("a/b"), false);
    act(&stub.api, Action::Replay, chosen, false).await.unwrap();
    assert_eq!(*log.lock(), ["POST /nudge/v1/dead-letters/store/a%2Fb/replay"]);
}

#[tokio::test]
async fn all_are_discarded_only_when_that_is_said() {
    let (stub, log) = subscribers_with_rows().await;
    let vague = act(&stub.api, Action::Discard, chosen(None, None, false), false).await;
    assert!(matches!(vague, Err(Failure::Usage(_))), "{vague:?}");
    assert!(log.lock().is_empty());
    act(&stub.api, Action::Discard, chosen(None, None, true), true).await.unwrap();
    assert_eq!(log.lock().len(), 2);
}

#[tokio::test]
async fn one_that_is_not_there_is_a_failure() {
    let (stub, _) = subscribers_with_rows().await;
    let missing = act(&stub.api, Action::Replay, chosen(Some("store"), Some("x"), false), false);
    assert_eq!(missing.await, Err(Failure::failed("there is no such dead letter")));
}

#[tokio::test]
async fn all_means_all_whatever_their_ids_are_and_however_many() {
    let kept = Kept::default();
    let ids = (0..MAX_ROWS + 2 * PAGE_ROWS).map(|n| format!("store-{n:06}"));
    kept.0.lock().extend(ids.chain([".".into(), "..".into(), "a/b".into(), "stubborn".into()]));
    let stub = kept.clone().stubs().await;
    let refused =
        act(&stub.api, Action::Discard, chosen(None, None, true), true).await.unwrap_err();
    let discarded = MAX_ROWS + 2 * PAGE_ROWS + 3;
    let said = format!("{discarded} discarded, 1 failed: stubborn: ");
    assert!(refused.to_string().starts_with(&said), "{refused}");
    assert_eq!(*kept.0.lock(), BTreeSet::from(["stubborn".to_owned()]));
}

#[tokio::test]
async fn a_list_that_is_cut_says_so() {
    let kept = Kept::default();
    kept.0.lock().extend((0..MAX_ROWS + 1).map(|n| n.to_string()));
    let stub = kept.clone().stubs().await;
    let which = chosen(None, None, false).which;
    let cut = ls(&stub.api, &which, true).await.unwrap_err();
    assert_eq!(cut.to_string(), "search has more than these 10000");
    kept.0.lock().pop_last();
    ls(&stub.api, &which, true).await.unwrap();
}

#[tokio::test]
async fn what_nobody_follows_is_not_said_to_have_no_dead_letters() {
    let stub = Kept::default().stubs().await;
    let failure = ls(&stub.api, &chosen(Some("shop"), None, false).which, false).await.unwrap_err();
    assert_eq!(failure.to_string(), "shop is not followed by search and review");
    let which = chosen(Some("store"), None, false).which;
    ls(&stub.api, &which, false).await.unwrap();
    let asked = which.followers(&stub.api).await.unwrap();
    assert_eq!(none(&asked), "no dead letters at search and review");
}
