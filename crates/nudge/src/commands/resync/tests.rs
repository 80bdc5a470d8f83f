use std::sync::Arc;

use axum::{
    Json, Router,
    http::StatusCode,
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::{client::Service, roles::STATUS_PATH, stub};

/// Ends a comparison at the second look after it was asked for one, with these differences.
fn subscriber(differences: Value, waiting: u64, asked: Arc<Mutex<Vec<Value>>>) -> Router {
    let looks = Arc::new(Mutex::new(0));
    let post_resync = {
        let asked = asked.clone();
        async move |Json(body): Json<Value>| {
            asked.lock().push(body);
            (StatusCode::ACCEPTED, Json(json!({})))
        }
    };
    let answer = async move || {
        *looks.lock() += 1;
        let began_at = match *looks.lock() {
            1 => Timestamp::from_unix_micros(0),
            _ => clock::now(),
        };
        let last = json!({"began_at": began_at, "compared": 7, "differences": differences});
        let resync = json!({"last": last, "removals_waiting": waiting});
        Json(json!({"entities": [{"entity": "store", "resync": resync}]}))
    };
    Router::new().route("/nudge/v1/resync", post(post_resync)).route(STATUS_PATH, get(answer))
}

fn args(allow_removals: bool) -> ResyncArgs {
    let (subscriber, entity) = ("search".to_owned(), EntityName::new("store").unwrap());
    ResyncArgs { subscriber, entity, full: false, allow_removals, timeout: 60 }
}

#[tokio::test]
async fn it_waits_for_the_comparison_that_began_after_it_asked() {
    let asked = Arc::default();
    let search = subscriber(json!({"missing": 2, "ghosts": 1}), 0, Arc::clone(&asked));
    let stubs = stub::start([(Service::Search, search)]).await;
    let found =
        compare(&stubs.api, stubs.api.of(Service::Search), args(false).asked()).await.unwrap();
    assert_eq!(*asked.lock(), [json!({"entity": "store", "full": false, "allow_removals": false})]);
    assert!(found.sweep.began_at > Timestamp::from_unix_micros(0));
    let line = console::strip_ansi_codes(&to_line(&found, &EntityName::new("store").unwrap(), 8))
        .into_owned();
    assert_eq!(line, "search    7 × store compared, repaired: 2 missing, 1 unknown to the owner");
}

#[test]
fn only_a_comparison_of_the_kind_that_was_asked_for_counts() {
    let (now, entity) = (clock::now(), EntityName::new("store").unwrap());
    let status = |full| -> Status {
        let last = json!({"began_at": now, "full": full});
        let entities = json!([{"entity": "store", "resync": {"last": last}}]);
        serde_json::from_value(json!({"entities": entities})).unwrap()
    };
    for (asked, made, counts) in [(true, false, false), (true, true, true), (false, true, true)] {
        let request = ResyncRequest { entity: entity.clone(), full: asked, allow_removals: false };
        assert_eq!(ended(status(made), &request, now).is_some(), counts, "{asked} {made}");
    }
}

#[tokio::test]
async fn removals_that_wait_are_a_failure_that_names_the_way_out() {
    let asked = Arc::default();
    let search = subscriber(json!({"ghosts": 900}), 900, Arc::clone(&asked));
    let stubs = stub::start([(Service::Search, search)]).await;
    let failure = run(stubs.api.clone(), args(false), false).await.unwrap_err().to_string();
    assert!(failure.contains("900") && failure.contains("--allow-removals"), "{failure}");
}

#[tokio::test]
async fn nothing_that_differs_is_said_in_two_words_and_what_is_known_to_differ_in_some_more() {
    let sweep = Sweep {
        began_at: clock::now(),
        ended_at: None,
        full: true,
        owner: String::new(),
        after: None,
        compared: 7_264,
        differences: Differences::default(),
        set_aside: 1,
        agreed: Default::default(),
        removals: 0,
    };
    let found = Found { subscriber: "review", sweep, removals_waiting: 0 };
    let line = console::strip_ansi_codes(&to_line(&found, &EntityName::new("store").unwrap(), 8))
        .into_owned();
    assert_eq!(
        line,
        "review    7264 × store compared and applied again, all equal, except 1 that is parked or a dead letter"
    );
}
