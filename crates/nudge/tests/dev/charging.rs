//! `examples/charging` beside a demo: the commands know the services of another domain once they are named.

use std::process::Stdio;

use nudge_testbed::TestDatabase;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use crate::dev::{
    demo::{Demo, NUDGE, ends},
    real::is_ready,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_wait_and_watch_know_an_owner_and_a_subscriber_of_another_domain() {
    let demo = Demo::of_real_services();
    let running = demo.start().await;
    is_ready(&demo).await;
    let databases = [TestDatabase::new().await, TestDatabase::new().await];
    let (nats, stop) =
        (format!("nats://127.0.0.1:{}", demo.port_base + 22), CancellationToken::new());
    let words = |database: &TestDatabase| {
        let database = format!("--database-url={}", database.url());
        vec![
            "charging".to_owned(),
            "--bind=127.0.0.1:0".to_owned(),
            format!("--nats-url={nats}"),
            database,
        ]
    };
    let stations = charging::stations::service();
    let stations = stations.start(words(&databases[0]), stop.clone()).await.unwrap();
    let owner = [format!("--station-owner-url=http://{}", stations.address)];
    let map = charging::map::service();
    let map =
        map.start([words(&databases[1]), owner.to_vec()].concat(), stop.clone()).await.unwrap();

    let http = Client::new();
    let station = json!({
        "name": "시청역", "operator": "A", "latitude": 37.5658, "longitude": 126.9772,
        "chargers": [{"id": "1", "connector": "ccs2", "power_kw": 150, "state": "available"}],
    });
    let url = format!("http://{}/stations/42", stations.address);
    let written = http.put(&url).json(&station).send().await.unwrap();
    let token = written.headers()["nudge-token"].to_str().unwrap().to_owned();
    let nudge = |words: &[&str]| {
        let mut command = Command::new(NUDGE);
        command.args(words).args(["--port-base", &demo.port_base.to_string()]);
        for (name, address) in
            [("charging-stations", stations.address), ("charging-map", map.address)]
        {
            command.args(["--also", &format!("{name}=http://{address}")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let json = async |words: &[&str]| {
        let output = ends(nudge(words).spawn().unwrap()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let waited = json(&["wait", &token, "--json"]).await;
    let [one] = &waited["subscribers"].as_array().unwrap()[..] else { panic!("{waited}") };
    assert_eq!((&one["subscriber"], &one["applied"]), (&json!("charging-map"), &json!(true)));

    let status = json(&["status", "--json"]).await;
    let follows = &status["subscribers"]["charging-map"]["entities"][0]["entity"];
    assert_eq!(follows, "station", "{status}");
    assert!(status["subscribers"]["charging-stations"].is_null(), "it follows nothing: {status}");
    let owned = |one: &&Value| one["status"]["entity"] == "station";
    let owned = status["owned"].as_array().unwrap().iter().find(owned);
    assert_eq!(owned.unwrap()["service"], "charging-stations", "{status}");
    assert_eq!(status["silent"], json!([]));

    let mut watch = nudge(&["watch", "42", "--count", "1", "--json"]).spawn().unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
    while !said.next_line().await.unwrap().unwrap().contains("charging-map is connected") {}
    let report = http.put(format!("{url}/chargers/1")).json(&json!({"state": "charging"}));
    assert_eq!(report.send().await.unwrap().status(), 200);
    let seen = String::from_utf8(ends(watch).await.stdout).unwrap();
    let seen: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
    assert_eq!((&seen["entity"], &seen["id"]), (&json!("station"), &json!("42")), "{seen}");
    assert!(seen["subscribers"]["charging-map"].is_object(), "{seen}");

    stop.cancel();
    map.stopped().await;
    stations.stopped().await;
    demo.stop(running).await;
}
