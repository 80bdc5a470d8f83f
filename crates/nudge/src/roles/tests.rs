use axum::{Json, Router, routing::get};
use serde_json::json;

use super::*;
use crate::{client::Service, stub};

const METRICS: &str = "# TYPE nudge_relay_pending gauge\n\
    nudge_relay_pending{shard=\"1\",entity=\"other\"} 9\n\
    nudge_relay_pending{entity=\"store\"} 3\n\
    nudge_relay_connected{entity=\"store\"} 1\n\
    nudge_relay_published_total{entity=\"store\"} 120\n# EOF\n";

fn following(entities: &[&str]) -> Router {
    let entities: Vec<_> = entities.iter().map(|entity| json!({ "entity": entity })).collect();
    let status = json!({ "service": "s", "entities": entities });
    Router::new().route(STATUS_PATH, get(async move || Json(status.clone())))
}

fn names(peers: &[Peer]) -> Vec<&'static str> {
    peers.iter().map(|peer| peer.name()).collect()
}

#[test]
fn a_metric_is_found_by_its_name_and_entity() {
    assert_eq!(metric(METRICS, "nudge_relay_pending", "store"), Some(3));
    assert_eq!(metric(METRICS, "nudge_relay", "store"), None);
    assert_eq!(metric(METRICS, "nudge_relay_pending", "review"), None);
}

#[test]
fn an_owner_says_what_it_owns_by_its_metrics() {
    let owned: Vec<_> = entities(METRICS).iter().map(ToString::to_string).collect();
    assert_eq!(owned, ["other", "store"]);
    assert_eq!(entities("process_cpu_seconds_total 1\n"), []);
}

#[tokio::test]
async fn whoever_has_no_status_is_no_subscriber_and_whoever_is_away_may_be_one() {
    let stub = stub::start([
        (Service::StoreInfo, Router::new()),
        (Service::Search, following(&["store"])),
    ])
    .await;
    let found = subscribers(&stub.api, "all").await.unwrap();
    let found: Vec<_> = found.iter().map(|one| (one.peer.name(), one.status.is_ok())).collect();
    assert!(found.starts_with(&[("search", true), ("review", false)]), "{found:?}");
    let none = subscribers(&stub.api, "store-info").await.unwrap_err().to_string();
    assert_eq!(none, "store-info is no subscriber: it follows nothing");
}

#[tokio::test]
async fn an_owner_that_the_kit_runs_has_a_status_and_is_no_subscriber() {
    let stub = stub::start([(Service::Search, following(&[]))]).await;
    assert_eq!(followed(&stub.api, stub.api.of(Service::Search)).await, Ok(None));
    let none = subscribers(&stub.api, "search").await.unwrap_err().to_string();
    assert_eq!(none, "search is no subscriber: it follows nothing");
}

#[tokio::test]
async fn a_demo_service_that_follows_nothing_is_missed_by_nobody_while_it_is_away() {
    let stub = stub::start([(Service::Search, following(&["store"]))]).await;
    let found = subscribers(&stub.api, "all").await.unwrap();
    assert!(found.iter().all(|one| one.peer.name() != "store-info"));
}

#[tokio::test]
async fn services_that_are_named_are_found_whatever_they_follow() {
    let stub = stub::start([(Service::Search, following(&["charger"]))]).await;
    let search = stub.api.of(Service::Search);
    let mut peers = stub.api.peers().to_vec();
    peers.push(Peer::new("charging", search.url()));
    let api = stub.api.clone().with(peers);
    let charger = EntityName::new("charger").unwrap();
    let found = followers(&api, "charging", Some(&charger)).await.unwrap();
    assert_eq!(names(&found), ["charging"]);
    let store = EntityName::new("store").unwrap();
    let refused = followers(&api, "charging", Some(&store)).await.unwrap_err().to_string();
    assert_eq!(refused, "store is not followed by charging");
    let unknown = followers(&api, "adverts", None).await.unwrap_err();
    assert!(matches!(&unknown, Failure::Usage(why) if why.contains("--also")), "{unknown}");
}

#[tokio::test]
async fn an_owner_is_found_by_what_it_owns_and_one_that_is_away_is_said_to_be() {
    let metrics = Router::new().route("/metrics", get(async || METRICS));
    let stub = stub::start([(Service::Search, metrics)]).await;
    let owner = async |entity: &str| {
        let found = owner_of(&stub.api, &EntityName::new(entity).unwrap()).await;
        found.map(Peer::name).map_err(|failure| failure.to_string())
    };
    assert_eq!(owner("other").await, Ok("search"));
    let away = owner("review").await.unwrap_err();
    assert!(away.starts_with("nothing answers on"), "{away}");
    assert_eq!(owner("charger").await, Err("no service here owns charger".to_owned()));
}
