//! `nudge dev --chaos`: each thing that is broken by hand shows, heals, and is equal in the end.

use std::{fs, process::Output};

use nudge_runtime::database::Kind;
use nudge_testbed::{TestDatabase, eventually};
use reqwest::{Client, Method, StatusCode};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::dev::{
    demo::{Demo, NUDGE},
    real::is_ready,
};

/// A demo that can be broken.
struct Breakable {
    demo: Demo,
    running: (Child, Vec<Pid>),
    http: Client,
}

impl Breakable {
    /// With this share of owners' time for comparing with them, in percent.
    async fn start(resync_percent: &str, args: &[&str]) -> Self {
        let demo = Demo::of_real_services();
        let mut command = demo.command();
        command.arg("--chaos").args(args).env("RESYNC_PERCENT", resync_percent);
        let running = demo.spawn(command).await;
        is_ready(&demo).await;
        let breakable = Self { demo, running, http: Client::new() };
        eventually("everybody has the samples", async || {
            let applied = breakable.applied("ads", "store-072").await?;
            (applied["version"] != Value::Null).then_some(())
        })
        .await;
        breakable
    }

    fn url(&self, port: u16, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.demo.port_base + port)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let request = self.http.request(method, self.url(0, path));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn breaks(&self, kind: &str, body: Value) {
        let path = format!("/api/chaos/{kind}");
        let (status, answer) = self.ask(Method::POST, &path, Some(&body)).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn heal(&self) -> Value {
        self.ask(Method::DELETE, "/api/chaos", None).await.1["healed"].take()
    }

    async fn shown(&self) -> Value {
        self.ask(Method::GET, "/api/chaos", None).await.1
    }

    /// Waits until one of the drawer's figures is at least this.
    async fn counts(&self, figure: &str, least: u64) {
        eventually(figure, async || (self.shown().await[figure].as_u64()? >= least).then_some(()))
            .await;
    }

    /// Changes a store. Returns its new version.
    async fn edits(&self, id: &str, name: &str) -> u64 {
        let url = self.url(1, &format!("/stores/{id}"));
        let answer = self.http.patch(url).json(&json!({ "name": name })).send().await.unwrap();
        answer.headers()["etag"].to_str().unwrap().trim_matches('"').parse().unwrap()
    }

    /// What a subscriber has of a store; `None` while it does not answer.
    async fn applied(&self, service: &str, id: &str) -> Option<Value> {
        let path = format!("/api/{service}/nudge/v1/applied/store/{id}");
        let (status, answer) = self.ask(Method::GET, &path, None).await;
        status.is_success().then_some(answer)
    }

    async fn has(&self, service: &str, id: &str, version: u64) -> bool {
        let applied = self.applied(service, id).await;
        applied.is_some_and(|applied| applied["version"].as_u64() >= Some(version))
    }

    async fn gets(&self, service: &str, id: &str, version: u64) {
        eventually(&format!("{service} has {id}"), async || {
            self.has(service, id, version).await.then_some(())
        })
        .await;
    }

    async fn status(&self, service: &str) -> Value {
        let path = format!("/api/{service}/nudge/v1/status");
        self.ask(Method::GET, &path, None).await.1["entities"][0].take()
    }

    async fn nudge(&self, line: &str) -> Output {
        let mut command = Command::new(NUDGE);
        command.args(line.split(' ')).args(["--port-base", &self.demo.port_base.to_string()]);
        command.kill_on_drop(true).output().await.unwrap()
    }

    fn pid(&self, service: &str) -> String {
        fs::read_to_string(self.demo.path(&format!("{service}.pid"))).unwrap_or_default()
    }

    async fn stop(self) {
        self.demo.stop(self.running).await;
    }
}

/// Nothing compares here: what is seen is what notifications and callbacks alone do.
#[tokio::test]
async fn what_is_broken_by_hand_shows_and_is_equal_once_it_is_healed() {
    let demo = Breakable::start("0", &[]).await;

    // Held back: on its way, and not there.
    demo.breaks("hold", json!({"service": "search", "count": 9, "seconds": 120, "seed": 7})).await;
    let version = demo.edits("store-001", "하나").await;
    demo.gets("review", "store-001", version).await;
    demo.counts("held", 1).await;
    assert!(!demo.has("search", "store-001", version).await);
    // Asked for once more, it is still one thing.
    demo.breaks("hold", json!({"service": "search", "count": 9, "seconds": 120, "seed": 8})).await;
    assert_eq!(demo.shown().await["broken"].as_array().unwrap().len(), 1);
    demo.gets("search", "store-001", version).await;
    assert_eq!((demo.heal().await, demo.heal().await), (json!(1), json!(0)));

    // Twice.
    let some = json!({"service": "ads", "percent": 100, "next": 0, "seconds": 120, "seed": 1});
    demo.breaks("duplicate", some).await;
    let version = demo.edits("store-002", "둘").await;
    demo.gets("ads", "store-002", version).await;
    demo.counts("duplicated", 1).await;

    // Late.
    demo.breaks("delay", json!({"service": "favourites", "ms": 700, "seconds": 120})).await;
    let version = demo.edits("store-003", "셋").await;
    demo.gets("favourites", "store-003", version).await;
    let lag = demo.status("favourites").await["lag_seconds"].as_f64().unwrap();
    assert!(lag >= 0.7, "{lag} s");

    // An owner that fails, in both ways.
    for answer in ["503", "refused"] {
        demo.breaks("owner", json!({"service": "store-info", "answer": answer, "seconds": 120}))
            .await;
        let version = demo.edits("store-004", answer).await;
        eventually(answer, async || {
            let error = demo.status("search").await["last_error"].as_str()?.to_owned();
            let expected = if answer == "503" { "503" } else { "connect" };
            error.contains(expected).then_some(())
        })
        .await;
        assert!(!demo.has("search", "store-004", version).await);
        demo.heal().await;
        demo.gets("search", "store-004", version).await;
    }
    demo.stop().await;
}

/// What no notification tells of, comparing finds: by itself, and at once when it is healed.
#[tokio::test]
async fn what_is_lost_or_edited_by_hand_is_found_and_mended() {
    let demo = Breakable::start("1", &[]).await;
    let some = json!({"service": "ads", "percent": 50, "next": 1, "seconds": 120, "seed": 1});
    demo.breaks("drop", some).await;
    let version = demo.edits("store-005", "다섯").await;
    demo.counts("dropped", 1).await;
    demo.heal().await;
    demo.gets("ads", "store-005", version).await;
    let version = demo.edits("store-005", "여섯").await;
    demo.gets("ads", "store-005", version).await;
    assert_eq!(demo.shown().await["dropped"], 1, "only the next one");
    everybody_mends_its_rows(&demo).await;
    demo.stop().await;
}

#[tokio::test]
async fn rows_are_edited_on_postgresql_too() {
    let database = TestDatabase::of(Kind::Postgres).await;
    let demo = Breakable::start("1", &["--database-url", database.url()]).await;
    everybody_mends_its_rows(&demo).await;
    demo.stop().await;
}

async fn everybody_mends_its_rows(demo: &Breakable) {
    for (service, row) in [
        ("search", "older"),
        ("review", "missing"),
        ("storefront", "renamed"),
        ("favourites", "renamed"),
        ("ads", "missing"),
    ] {
        demo.breaks("edit", json!({"service": service, "id": "store-006", "row": row})).await;
        let words = demo.shown().await["broken"][0]["words"].take();
        assert!(words.as_str().is_none_or(|words| words.contains("store-006")), "{words}");
        // It is over when the row is as it should be again, long before its time.
        eventually(&format!("{service} mends a row that is {row}"), async || {
            demo.shown().await["broken"].as_array()?.is_empty().then_some(())
        })
        .await;
    }
    let none = json!({"service": "search", "id": "no such store", "row": "older"});
    let (status, problem) = demo.ask(Method::POST, "/api/chaos/edit", Some(&none)).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (400, &json!("id")));
}

/// By the commands, as the page shows them.
#[tokio::test]
async fn a_service_that_is_killed_by_hand_is_down_until_its_time_is_over_and_a_signal_ends_all_of_it()
 {
    let demo = Breakable::start("1", &[]).await;
    let before = demo.pid("search");
    let output = demo.nudge("break kill --service search --seconds 120").await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("broken on purpose: search was killed; "), "{said}");
    eventually("it is not ready", async || {
        let (_, answer) = demo.ask(Method::GET, "/readyz", None).await;
        (answer["not_ready"] == json!(["search"])).then_some(())
    })
    .await;
    let status = String::from_utf8(demo.nudge("status").await.stdout).unwrap();
    assert!(
        status.contains("broken on purpose: search was killed; heals by itself in"),
        "{status}"
    );
    assert_eq!(demo.pid("search"), before, "nobody starts it meanwhile");
    // Another time for the same takes its place, and runs out by itself.
    demo.nudge("break kill --service search --seconds 1").await;
    is_ready(&demo.demo).await;
    assert_ne!(demo.pid("search"), before);
    let (_, answer) = demo.ask(Method::GET, "/readyz", None).await;
    assert!(
        answer["parts"].as_array().unwrap().iter().all(|part| part["restarts"] == 0),
        "{answer}"
    );
    let output = demo.nudge("break ls").await;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "nothing is broken on purpose\n");
    let output = demo.nudge("break hold --service search --count 65").await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("count: must be from 1 to 64"), "{said}");

    for line in ["kill --service review", "hold --service ads", "delay --service ads --ms 5000"] {
        assert!(
            demo.nudge(&format!("break {line} --seconds 120")).await.status.success(),
            "{line}"
        );
    }
    // Whoever was started last is to be gone, too.
    let (child, mut pids) = demo.running;
    pids.extend(Pid::from_raw(
        fs::read_to_string(demo.demo.path("search.pid")).unwrap().trim().parse().unwrap(),
    ));
    demo.demo.stop((child, pids)).await;
}

#[tokio::test]
async fn without_being_asked_to_nothing_can_be_broken() {
    let demo = Demo::new();
    let running = demo.start().await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", demo.port_base);
    let http = Client::new();
    for (method, path) in [
        (Method::GET, "/api/chaos"),
        (Method::DELETE, "/api/chaos"),
        (Method::POST, "/api/chaos/kill"),
        (Method::POST, "/api/chaos/hold"),
    ] {
        let body = json!({"service": "search", "seconds": 1});
        let answer = http.request(method, url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    let status: Value = http.get(url("/api/status")).send().await.unwrap().json().await.unwrap();
    assert!(status.get("chaos").is_none(), "{status}");
    let mut command = Command::new(NUDGE);
    command.args(["break", "heal", "--port-base", &demo.port_base.to_string()]);
    let said = String::from_utf8(command.output().await.unwrap().stderr).unwrap();
    assert!(said.contains("nudge dev --chaos"), "{said}");
    demo.stop(running).await;
}
