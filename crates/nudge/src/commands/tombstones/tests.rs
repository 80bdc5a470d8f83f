use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::Query,
    routing::{get, post},
};
use nudge_protocol::{Version, admin::StrangerTombstone};
use parking_lot::Mutex;

use super::*;
use crate::{client::Service, stub};

type Ids = Arc<Mutex<BTreeSet<String>>>;

/// Lists what is in the set, a page at a time, and takes out what is flagged.
fn owner(ids: &Ids) -> Router {
    let (listed, flagged) = (ids.clone(), ids.clone());
    let list = async move |Query(query): Query<std::collections::HashMap<String, String>>| {
        let (limit, after) = (query["limit"].parse::<usize>().unwrap(), query.get("after"));
        let row = |id: &String| StrangerTombstone {
            id: EntityId::new(id).unwrap(),
            version: Version::new(7).unwrap(),
            made_at: Timestamp::from_unix_micros(0),
        };
        let ids = listed.lock();
        let rest = ids.iter().filter(|id| after.is_none_or(|after| *id > after));
        let mut items: Vec<_> = rest.take(limit + 1).map(row).collect();
        let next = (items.len() > limit).then(|| items[limit - 1].id.clone());
        items.truncate(limit);
        Json(StrangerTombstones { items, next })
    };
    let flag = async move |Json(asked): Json<NeverExisted>| {
        let mut there = flagged.lock();
        let (flagged, no_tombstone) =
            asked.ids.into_iter().partition(|id| there.remove(id.as_str()));
        Json(Flagged { flagged, no_tombstone })
    };
    let metrics = "nudge_relay_pending{entity=\"store\"} 0\n";
    Router::new()
        .route("/metrics", get(async move || metrics))
        .route("/nudge/v1/tombstones/store", get(list))
        .route("/nudge/v1/tombstones/store/never-existed", post(flag))
}

fn store() -> EntityName {
    EntityName::new("store").unwrap()
}

#[tokio::test]
async fn all_are_flagged_page_by_page_and_of_some_it_is_told_which_have_no_tombstone() {
    let ids: Ids = Arc::new(Mutex::new((0..1_200).map(|n| format!("tomb-{n}")).collect()));
    let stub = stub::start([(Service::StoreInfo, owner(&ids))]).await;
    let id = |text: &str| EntityId::new(text).unwrap();
    let some = Chosen { entity: store(), ids: vec![id("tomb-7"), id("42")], all: false };
    let failure = never_existed(&stub.api, some, true).await.unwrap_err();
    assert!(failure.to_string().contains("no tombstone: 42"), "{failure}");
    assert_eq!(ids.lock().len(), 1_199);
    ls(&stub.api, &store(), true).await.unwrap();
    never_existed(&stub.api, Chosen { entity: store(), ids: vec![], all: true }, true)
        .await
        .unwrap();
    assert_eq!(ids.lock().len(), 0);
}

#[tokio::test]
async fn a_kind_of_entity_that_nobody_owns_is_named() {
    let failure = ls(&stub::nobody().await, &EntityName::new("stores").unwrap(), false).await;
    assert_eq!(failure.unwrap_err().to_string(), "no service here owns stores");
}
