use axum::{Json, Router, routing::get};
use console::strip_ansi_codes;

use super::*;
use crate::{client::Service, peers::Also, roles::STATUS_PATH, stub};

const METRICS: &str = "# TYPE nudge_relay_pending gauge\n\
    nudge_relay_pending{entity=\"store\"} 3\n\
    nudge_relay_connected{entity=\"store\"} 1\n\
    nudge_relay_published_total{entity=\"store\"} 120\n# EOF\n";

fn search() -> Router {
    let status = json!({"service": "search", "ready": true, "paused": false, "entities": [
        {"entity": "store", "applied": 63, "lag_seconds": 0.0021, "queued": 0, "processing": 1,
         "retrying": 0, "parked": 2, "dead_letters": 1, "breaker": "closed", "paused": false,
         "last_progress": "2026-01-01T00:00:00Z", "connected": true, "new_field": {},
         "last_error": "the owner answered 503",
         "resync": {"last": {"began_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z",
                             "compared": 63, "differences": {"missing": 2}},
                    "removals_waiting": 150}}]});
    Router::new().route(STATUS_PATH, get(async move || Json(status)))
}

#[tokio::test]
async fn the_table_shows_who_is_away_and_what_wants_attention() {
    let owner = Router::new().route("/metrics", get(async || METRICS));
    let stub = stub::start([(Service::StoreInfo, owner), (Service::Search, search())]).await;
    let looked = look(&stub.api).await;
    let now = "2026-01-01T00:00:03Z".parse().unwrap();
    let lines = to_lines(&looked, &[], now);
    let lines: Vec<_> = lines.iter().map(|line| strip_ansi_codes(line).into_owned()).collect();
    assert!(lines[1].starts_with("store-info  store   3        120"), "{lines:#?}");
    assert!(lines[2].starts_with("review      review  —        —"), "{lines:#?}");
    assert!(lines[2].ends_with("does not answer"), "{lines:#?}");
    assert!(
        lines[5].contains("2.1 ms") && lines[5].ends_with("3.0 s ago      2 missing"),
        "{lines:#?}"
    );
    assert!(lines[6].ends_with("does not answer"), "{lines:#?}");
    assert_eq!(lines[7], "  search: the owner answered 503");
    assert!(lines[8].starts_with("  search: the owner does not have 150 (store)"), "{lines:#?}");
    let json = to_json(&looked, &[]);
    assert_eq!(json["owners"]["store-info"]["pending"], 3);
    assert_eq!(json["subscribers"]["search"]["entities"][0]["dead_letters"], 1);
    assert!(json["subscribers"]["review"]["error"].is_string());
}

#[test]
fn a_first_catch_up_says_how_far_it_is() {
    let said = |handled, seconds_left| far(&CatchingUp { handled, left: 800, seconds_left });
    assert_eq!(said(0, None), "catching up: 0 %, 800 to go");
    assert_eq!(said(200, Some(16.0)), "catching up: 20 %, 16.0 s left");
}

#[test]
fn equality_says_when_all_was_equal_how_far_it_is_or_why_it_is_not_known() {
    let now = "2026-01-01T00:00:03Z".parse().unwrap();
    let said = |resync: serde_json::Value| {
        let resync = serde_json::from_value(resync).unwrap();
        strip_ansi_codes(&equality(&resync, 10, now)).into_owned()
    };
    let sweep = json!({"began_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z", "compared": 7});
    assert_eq!(said(json!({})), "not compared yet");
    assert_eq!(said(json!({"waits_for": "the owner is failing"})), "the owner is failing");
    assert_eq!(said(json!({"last": sweep})), "2.0 s ago");
    assert_eq!(
        said(json!({"last": sweep, "current": sweep})),
        "2.0 s ago, 70 % compared, 1.3 s left"
    );
    let contents = json!({"last": sweep});
    assert_eq!(said(json!({"last": sweep, "contents": contents})), "2.0 s ago, contents 2.0 s ago");
    let edited = json!({"last": {"began_at": "2026-01-01T00:00:00Z", "altered": 2, "strays": 1}});
    assert_eq!(said(json!({"last": sweep, "contents": edited})), "2.0 s ago, 3 edited by somebody");
}

#[tokio::test]
async fn an_owner_whose_stream_tells_of_more_than_it_knows_is_named() {
    let more = "nudge_relay_strangers{entity=\"store\"} 997\n\
                nudge_relay_stranger_tombstones{entity=\"store\"} 20\n# EOF";
    let metrics = METRICS.replace("# EOF", more);
    let owner = Router::new().route("/metrics", get(async move || metrics));
    let stub = stub::start([(Service::StoreInfo, owner), (Service::Search, search())]).await;
    let looked = look(&stub.api).await;
    let lines = to_lines(&looked, &[], "2026-01-01T00:00:03Z".parse().unwrap());
    let line = strip_ansi_codes(&lines[3]).into_owned();
    assert!(line.starts_with("  store-info: its stream holds at least 997 (store)"), "{lines:#?}");
    let line = strip_ansi_codes(&lines[4]).into_owned();
    assert!(line.starts_with("  store-info: 20 tombstones (store) for IDs"), "{lines:#?}");
}

#[tokio::test]
async fn an_owner_whose_stream_is_altered_and_takes_nothing_is_named() {
    let metrics = METRICS.replace("connected{entity=\"store\"} 1", "connected{entity=\"store\"} 0");
    let further = "nudge_relay_broker_connected{entity=\"store\"} 1\n\
        nudge_relay_stream_altered{entity=\"store\"} 1\n# EOF";
    let metrics = metrics.replace("# EOF", further);
    let owner = Router::new().route("/metrics", get(async move || metrics));
    let stub = stub::start([(Service::StoreInfo, owner), (Service::Search, search())]).await;
    let looked = look(&stub.api).await;
    let lines = to_lines(&looked, &[], "2026-01-01T00:00:03Z".parse().unwrap());
    let lines: Vec<_> = lines.iter().map(|line| strip_ansi_codes(line).into_owned()).collect();
    assert!(lines[1].ends_with("refused"), "{lines:#?}");
    assert!(
        lines[3].starts_with("  store-info: its stream (store) is not as it must be"),
        "{lines:#?}"
    );
}

#[test]
fn a_broker_that_is_there_and_brings_nothing_is_not_away() {
    let shown = |told: serde_json::Value| {
        let mut status = json!({"entity": "store"});
        status.as_object_mut().unwrap().extend(told.as_object().unwrap().clone());
        strip_ansi_codes(&way_in(&serde_json::from_value(status).unwrap())).into_owned()
    };
    assert_eq!(shown(json!({"connected": true, "broker_connected": true})), "connected");
    assert_eq!(shown(json!({"connected": false, "broker_connected": true})), "withheld");
    assert_eq!(shown(json!({"connected": false, "broker_connected": false})), "away");
    // From a release that does not tell them apart.
    assert_eq!(shown(json!({"connected": false})), "away");
}

#[tokio::test]
async fn a_service_that_is_away_makes_the_command_fail() {
    let failure = run(
        stub::nobody().await,
        &Also::default(),
        peers::console(1),
        StatusArgs { nats_url: None },
        true,
    )
    .await
    .unwrap_err();
    assert!(failure.to_string().starts_with("nothing answers on 127.0.0.1:"), "{failure}");
}
