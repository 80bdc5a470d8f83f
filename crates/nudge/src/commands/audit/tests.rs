use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;
use crate::{client::Service, roles::STATUS_PATH, stub};

fn plain(lines: &[String]) -> String {
    console::strip_ansi_codes(&lines.join("\n")).into_owned()
}

fn status(resync: Value) -> EntityStatus {
    serde_json::from_value(json!({"entity": "store", "applied": 7264, "resync": resync})).unwrap()
}

#[test]
fn it_says_what_was_compared_and_how_consistent_that_is() {
    let now = "2026-01-01T03:00:10Z".parse().unwrap();
    let sweep = json!({"began_at": "2026-01-01T03:00:00Z", "ended_at": "2026-01-01T03:00:05Z", "compared": 7264});
    let day = json!({"began_at": "2026-01-01T00:00:10Z", "compared": 3_000_000,
                     "differed": {"one_second": 1, "ten_seconds": 0}});
    let resync = json!({"last": sweep, "contents": {"last": sweep}, "audit": {"current": day}});
    let expected = "\
search: 7264 × store
  versions: 7264 compared in 5.0 s, 5.0 s ago: all equal
  contents: 7264 compared in 5.0 s, 5.0 s ago: as the owner says
  in 3 h 00 min, 3000000 comparisons of one entity:
    1 differed for 1 s: consistent to 5 nines within 1 s (99.999 %)
    none differed for 10 s: consistent to 6 nines within 10 s (99.9999 %)
    none differed for 1 min: consistent to 6 nines within 1 min (99.9999 %)
    none differed for 5 min: consistent to 6 nines within 5 min (99.9999 %)";
    assert_eq!(plain(&said("search", &status(resync), now)), expected);
    let pass = json!({"began_at": "2026-01-01T03:00:00Z", "ended_at": "2026-01-01T03:00:05Z", "compared": 7260,
                      "left_out": 4, "strays": 1});
    let waits = json!({"contents": {"last": pass, "waits_for": "it cannot be read"}});
    let expected = "contents: 7260 compared in 5.0 s, 5.0 s ago: 1 edited by somebody, written again, \
                    4 left out: in flight, or dead letters; waits: it cannot be read";
    assert!(plain(&said("search", &status(waits), now)).contains(expected));
    let waits = json!({"waits_for": "the owner is failing"});
    assert!(plain(&said("search", &status(waits), now)).ends_with("  waits: the owner is failing"));
    assert!(plain(&said("search", &status(Value::Null), now)).contains("switched off"));
}

/// A subscriber that is equal at the second comparison, with one certificate and one refusal.
fn subscriber() -> Router {
    let looks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let answer = async move || {
        // The first look is for the names alone.
        let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let missing = if look < 2 { 1 } else { 0 };
        let last =
            json!({"began_at": clock::now(), "compared": 7, "differences": {"missing": missing}});
        Json(json!({"entities": [{"entity": "store", "resync": {"last": last}}]}))
    };
    let certificate = json!({
        "service": "search", "entity": "store", "owner": "http://127.0.0.1:7101",
        "began_at": "2026-01-01T00:00:00Z", "as_of": "2026-01-01T00:00:01Z",
        "entities": 7, "tombstones": 0, "digest": "0".repeat(64), "in_flight": [], "contents_as_of": null,
    });
    let certificates = json!({"certificates": [
        {"entity": "store", "certificate": certificate, "why_not": null},
        {"entity": "review", "certificate": null, "why_not": "nothing is compared yet"},
    ]});
    Router::new()
        .route("/nudge/v1/resync", post(async || (StatusCode::ACCEPTED, Json(json!({})))))
        .route(STATUS_PATH, get(answer))
        .route("/nudge/v1/certificates", get(async move || Json(certificates.clone())))
}

#[tokio::test]
async fn a_certificate_is_one_line_and_what_cannot_be_certified_is_a_failure() {
    let stubs = stub::start([(Service::Search, subscriber())]).await;
    let timeout = Duration::from_secs(60);
    let search = stubs.api.of(Service::Search);
    let told = roles::status(&stubs.api, search).await.unwrap();
    let (lines, failure) = certificates(&stubs.api, search, told, timeout).await.unwrap();
    assert_eq!(lines.len(), 1);
    let certificate: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((&certificate["service"], &certificate["entities"]), (&json!("search"), &json!(7)));
    let failure = failure.unwrap().to_string();
    assert!(failure.contains("search, review: nothing is compared yet"), "{failure}");
}
