//! The owner: what a write does, and what is refused.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{NO_BROKER, Program, station};

const CITY_HALL: (f64, f64) = (37.5658, 126.9772);
const TWO: [(&str, &str, f64, &str); 2] =
    [("1", "ccs2", 150.0, "available"), ("2", "type2", 7.4, "charging")];

fn version(tag: &str) -> u64 {
    tag.trim_matches('"').parse().unwrap_or_else(|_| panic!("no version: {tag}"))
}

#[tokio::test]
async fn a_station_is_written_read_deleted_and_comes_back() {
    let stations = Program::stations(NO_BROKER).await;
    assert_eq!(stations.get("/stations/42").await.status, 404);
    let sent = station(CITY_HALL, &TWO);
    let written = stations.put("/stations/42", &sent).await;
    assert_eq!((written.status, &written.body), (201, &sent));
    let first = version(written.header("etag"));
    assert_eq!(written.header("nudge-token"), format!("station/42@{first}"));
    let read = stations.get("/stations/42").await;
    assert_eq!((read.status, &read.body, version(read.header("etag"))), (200, &sent, first));
    let same = stations.put("/stations/42", &sent).await;
    assert_eq!((same.status, version(same.header("etag"))), (200, first));

    let deleted = stations.delete("/stations/42").await;
    let tombstone = version(deleted.header("etag"));
    assert!(deleted.status == 204 && tombstone > first);
    for answer in [
        stations.get("/stations/42").await,
        stations.delete("/stations/42").await,
        stations.report("42", "1", "charging").await,
    ] {
        assert_eq!(answer.status, 410, "{answer:?}");
    }
    let back = stations.put("/stations/42", &sent).await;
    assert!(back.status == 201 && version(back.header("etag")) > tombstone);
}

#[tokio::test]
async fn a_report_changes_one_charger_and_nothing_else() {
    let stations = Program::stations(NO_BROKER).await;
    let written = stations.put("/stations/42", &station(CITY_HALL, &TWO)).await;
    let mut expected = written.body.clone();
    expected["chargers"][1]["state"] = json!("out-of-order");
    let reported = stations.report("42", "2", "out-of-order").await;
    assert_eq!((reported.status, &reported.body), (200, &expected));
    assert!(version(reported.header("etag")) > version(written.header("etag")));
    let again = stations.report("42", "2", "out-of-order").await;
    assert_eq!(again.header("etag"), reported.header("etag"));
    assert_eq!(stations.report("42", "3", "charging").await.status, 404);
    assert_eq!(stations.report("43", "1", "charging").await.status, 404);
    assert_eq!(stations.get("/stations/42").await.body, expected);
}

#[tokio::test]
async fn a_write_may_require_a_version_and_a_read_may_know_one() {
    let stations = Program::stations(NO_BROKER).await;
    let sent = station(CITY_HALL, &TWO);
    let if_match = async |method: Method, path: &str, tag: &str, body: &Value| {
        let request = stations.request(method, path).header(header::IF_MATCH, tag);
        request.json(body).send().await.unwrap()
    };
    assert_eq!(if_match(Method::PUT, "/stations/42", "*", &sent).await.status(), 412);
    let first = stations.put("/stations/42", &sent).await;
    let second = stations.report("42", "1", "charging").await;
    let report = json!({"state": "available"});
    for (method, path, body) in [
        (Method::PUT, "/stations/42", &sent),
        (Method::PUT, "/stations/42/chargers/1", &report),
        (Method::DELETE, "/stations/42", &Value::Null),
    ] {
        let refused = if_match(method, path, first.header("etag"), body).await;
        assert_eq!(refused.status(), 412, "{path}");
        assert_eq!(refused.headers()["etag"], second.headers["etag"], "{path}");
    }
    let known = stations.request(Method::GET, "/stations/42");
    let known = known.header(header::IF_NONE_MATCH, second.header("etag")).send().await.unwrap();
    assert_eq!(known.status(), 304);
    let taken = if_match(Method::PUT, "/stations/42", second.header("etag"), &sent).await;
    assert_eq!(taken.status(), 200);
    assert_eq!(stations.get("/stations/42").await.body, sent);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_written() {
    let stations = Program::stations(NO_BROKER).await;
    let good = station(CITY_HALL, &TWO);
    let first = stations.put("/stations/42", &good).await;
    let with = |field: &str, value: Value| {
        let mut station = good.clone();
        station[field] = value;
        station
    };
    let charger = |field: &str, value: Value| {
        let mut station = good.clone();
        station["chargers"][1][field] = value;
        station
    };
    let many: Vec<_> = (0..101)
        .map(|n| json!({"id": n.to_string(), "connector": "ccs2", "power_kw": 1, "state": "available"}))
        .collect();
    let mut nameless = good.clone();
    nameless.as_object_mut().unwrap().remove("name");
    let (one, long) = ("/stations/42", "x".repeat(201));
    let report = "/stations/42/chargers/1";
    for (path, body, status, wrong) in [
        (one, with("name", json!("")), 422, vec!["name"]),
        (one, with("name", json!("a\u{0}b")), 422, vec!["name"]),
        (one, with("operator", json!("가".repeat(101))), 422, vec!["operator"]),
        (one, with("latitude", json!(90.5)), 422, vec!["latitude"]),
        (one, with("latitude", json!("37")), 422, vec!["latitude"]),
        (one, with("longitude", json!(180)), 422, vec!["longitude"]),
        (one, with("colour", json!("red")), 422, vec!["colour"]),
        (one, with("chargers", json!(many)), 422, vec!["chargers"]),
        (one, with("chargers", json!([["1", "ccs2", 1, "available"]])), 422, vec!["chargers[0]"]),
        (one, nameless, 422, vec!["name"]),
        (one, json!(["시청역", "A", 1, 1, []]), 422, vec!["body"]),
        (one, charger("id", json!("1")), 422, vec!["chargers[1].id"]),
        (one, charger("id", json!("")), 422, vec!["chargers[1].id"]),
        (one, charger("connector", json!("plug")), 422, vec!["chargers[1].connector"]),
        (one, charger("power_kw", json!(0)), 422, vec!["chargers[1].power_kw"]),
        (one, charger("power_kw", json!(5_001)), 422, vec!["chargers[1].power_kw"]),
        (one, charger("state", json!("idle")), 422, vec!["chargers[1].state"]),
        (report, json!({"state": "idle"}), 422, vec!["state"]),
        (report, json!({"state": "charging", "power_kw": 1}), 422, vec!["power_kw"]),
        (report, json!({}), 422, vec!["state"]),
        (&format!("/stations/{long}"), good.clone(), 400, vec!["id"]),
        ("/stations/%00", good.clone(), 400, vec!["id"]),
        ("/stations/42/chargers/%FF", json!({"state": "charging"}), 400, vec!["charger"]),
    ] {
        let answer = stations.put(path, &body).await;
        assert_eq!((answer.status, answer.wrong()), (status, wrong), "{path} {body}");
    }
    let now = stations.get("/stations/42").await;
    assert_eq!((&now.body, now.header("etag")), (&good, first.header("etag")));
    let request = stations.request(Method::POST, "/sync/v1/station/items").json(&json!({}));
    let known: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(known["items"].as_array().unwrap().len(), 1);
}

/// On PostgreSQL, each writer reads the station that the one before has written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_one_station_that_meet_are_all_there() {
    let stations = Program::stations(NO_BROKER).await;
    let ids: Vec<_> = (0..8).map(|n| n.to_string()).collect();
    let chargers: Vec<_> = ids.iter().map(|id| (&**id, "ccs2", 150.0, "available")).collect();
    stations.put("/stations/42", &station(CITY_HALL, &chargers)).await;
    let report = async |id: &str| {
        for state in ["charging", "available"].repeat(10).into_iter().chain(["out-of-order"]) {
            assert_eq!(stations.report("42", id, state).await.status, 200);
        }
    };
    let [a, b, c, d, e, f, g, h] = &ids[..] else { panic!("eight chargers") };
    tokio::join!(
        report(a),
        report(b),
        report(c),
        report(d),
        report(e),
        report(f),
        report(g),
        report(h)
    );
    let now = stations.get("/stations/42").await.body;
    let broken = |charger: &Value| charger["state"] == "out-of-order";
    assert!(now["chargers"].as_array().unwrap().iter().all(broken), "{now}");
}

/// What the kit gives a service that owns something and follows nothing.
#[tokio::test]
async fn an_owner_that_follows_nothing_is_no_subscriber() {
    let stations = Program::stations(NO_BROKER).await;
    assert_eq!(stations.get("/nudge/v1/status").await.status, 404);
    assert_eq!(stations.get("/readyz").await.status, 200);
    assert_eq!(stations.metric("nudge_relay_pending").await, 0);
    let words = ["charging-stations", "--database-url=sqlite:x.db", "--resync-percent=0"];
    let refused = charging::stations::service().start(words, Default::default()).await;
    assert!(refused.unwrap_err().to_string().contains("--resync-percent"));
}
