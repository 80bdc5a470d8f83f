//! The API of every subscriber: the fixed contract.

use axum::{Router, routing::get};
use futures_util::StreamExt;
use nudge_protocol::{Version, WriteToken, write_token::WRITE_TOKEN_HEADER};
use nudge_runtime::serve;
use nudge_tests::{Copy, Fault, Nats, Owner, PATIENCE, QUIET, eventually};
use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

async fn started() -> (Nats, Owner, Copy) {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    (nats, owner, copy)
}

/// Asserts that the answer is a problem with this status, and returns it.
async fn problem(response: Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status, "{}", response.url());
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string(), "{problem}");
    problem
}

async fn fetch(copy: &Copy, path: &str) -> Response {
    reqwest::get(copy.admin(path)).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_how_each_entity_is_doing() {
    let (_nats, owner, copy) = started().await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    owner.put("bad", json!(1)).await;
    copy.wait(&owner.put("42", json!(1)).await).await;
    copy.wait(&owner.delete("42").await).await;
    copy.dead_letters(1).await;
    let status = copy.get("status").await;
    assert_eq!(status["service"], "copies");
    let entity = &status["entities"][0];
    let expected = [
        ("entity", json!("thing")),
        ("applied", json!(1)),
        ("queued", json!(0)),
        ("processing", json!(0)),
        ("retrying", json!(0)),
        ("breaker", json!("closed")),
        ("paused", json!(false)),
        ("dead_letters", json!(1)),
    ];
    for (field, value) in expected {
        assert_eq!(entity[field], value, "{field}: {entity}");
    }
    assert!(entity["lag_seconds"].as_f64() > Some(0.0), "{entity}");
    let last_progress = entity["last_progress"].as_str().expect("a time");
    last_progress.parse::<nudge_protocol::Timestamp>().expect("RFC 3339");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_catch_up_is_no_lag() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let before = owner.put("42", json!("long ago")).await;
    tokio::time::sleep(QUIET).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.wait(&before).await;
    copy.quiet().await;
    assert_eq!(copy.status().await["lag_seconds"], 0.0);
    assert_eq!(copy.metric("nudge_convergence_lag_seconds_count").await, 0);
    copy.wait(&owner.put("42", json!("now")).await).await;
    assert!(copy.status().await["lag_seconds"].as_f64() > Some(0.0));
    assert_eq!(copy.metric("nudge_convergence_lag_seconds_count").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_says_which_version_is_visible() {
    let (_nats, owner, copy) = started().await;
    problem(fetch(&copy, "applied/thing/42").await, 404).await;
    problem(fetch(&copy, "applied/other/42").await, 404).await;
    problem(fetch(&copy, "applied/thing/%00").await, 400).await;
    for deleted in [false, true] {
        let token = match deleted {
            false => owner.put("42", json!(1)).await,
            true => owner.delete("42").await,
        };
        copy.wait(&token).await;
        let applied = copy.get("applied/thing/42").await;
        assert_eq!(applied["version"], token.version.get());
        assert_eq!(applied["deleted"], deleted);
        assert!(applied["applied_at"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_answers_when_the_version_is_applied_or_time_is_up() {
    let (_nats, owner, copy) = started().await;
    copy.post("pause").await;
    let token = owner.put("a b/1", json!(1)).await;
    let now = problem(fetch(&copy, &format!("wait?token={token}&timeout_ms=0")).await, 504).await;
    assert_eq!(now["version"], Value::Null, "nothing is applied yet");
    let waiting = tokio::spawn(reqwest::get(copy.admin(&format!("wait?token={token}"))));
    copy.post("resume").await;
    let answer = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let applied: Value = answer.json().await.expect("JSON");
    assert_eq!(applied["version"], token.version.get());
    let later = Version::new(token.version.get() + 1).expect("a version");
    let later = WriteToken { version: later, ..token.clone() };
    let now = problem(fetch(&copy, &format!("wait?token={later}&timeout_ms=1")).await, 504).await;
    assert_eq!(now["version"], token.version.get(), "the version that is applied");
    for (query, field) in [
        ("token=nonsense", "token"),
        ("token=thing/42@x", "token"),
        ("token=thing/@1", "token"),
        ("token=thing/42@1&timeout_ms=60001", "timeout_ms"),
    ] {
        let problem = problem(fetch(&copy, &format!("wait?{query}")).await, 400).await;
        assert_eq!(problem["errors"][0]["field"], field, "{query}: {problem}");
    }
    problem(fetch(&copy, "wait").await, 400).await;
    problem(fetch(&copy, "wait?token=other/42@1").await, 404).await;
}

/// A service around the copy, with one endpoint that honours tokens.
async fn service(copy: &Copy, stop: CancellationToken) -> String {
    let db = copy.db.clone();
    let count = get(async move || {
        let row = sqlx::query_as("SELECT count(*) FROM copy").fetch_one(db.reader()).await;
        let (count,): (i64,) = row.expect("a count");
        count.to_string()
    });
    let router = copy.subscriber.wait_layer(Router::new().route("/count", count).into());
    let listener = serve::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let url = format!("http://{}/count", listener.local_addr().expect("an address"));
    tokio::spawn(serve::serve(listener, router.into(), stop));
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_token_sees_that_write() {
    let (_nats, owner, copy) = started().await;
    let stop = CancellationToken::new();
    let url = service(&copy, stop.clone()).await;
    let ask = |tokens: String| {
        let request = reqwest::Client::new().get(&url).header(WRITE_TOKEN_HEADER, tokens);
        async move { request.send().await.expect("an answer") }
    };
    let token = owner.put("42", json!(1)).await;
    let answer = ask(token.to_string()).await;
    assert_eq!(answer.text().await.expect("a text"), "1");

    copy.post("pause").await;
    let next = owner.put("43", json!(1)).await;
    let problem_504 = problem(ask(format!("{token}, {next}")).await, 504).await;
    assert_eq!(problem_504["version"], Value::Null);
    let again = owner.put("42", json!(2)).await;
    let problem_504 = problem(ask(again.to_string()).await, 504).await;
    assert_eq!(problem_504["version"], token.version.get());
    let waiting = tokio::spawn(ask(format!("{next},{again}")));
    copy.post("resume").await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer.text().await.expect("a text"), "2");
    for bad in ["42", "thing/42", "thing/42@", "thing/%FF@1", "other/42@1"] {
        let problem = problem(ask(bad.to_owned()).await, 400).await;
        assert_eq!(problem["errors"][0]["field"], WRITE_TOKEN_HEADER, "{bad}");
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_what_happens_to_each_key_and_end_when_the_service_stops() {
    let (_nats, owner, copy) = started().await;
    let answer = fetch(&copy, "events").await;
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    let mut chunks = answer.bytes_stream();
    let mut text = String::new();
    let token = owner.put("a b", json!(1)).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    owner.put("bad", json!(1)).await;
    while !text.contains("dead_lettered") || !text.contains("\"applied\"") {
        let chunk = chunks.next().await.expect("more events").expect("no error");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.map(|event| serde_json::from_str::<Value>(event).expect("JSON"));
    let (good, bad): (Vec<_>, Vec<_>) = events.partition(|event| event["id"] == "a b");
    let kinds = |events: &[Value]| -> Vec<Value> {
        events.iter().map(|event| event["kind"].clone()).collect()
    };
    assert_eq!(kinds(&good), ["received", "fetched", "applied"]);
    assert_eq!(kinds(&bad), ["received", "fetched", "dead_lettered"]);
    for event in &good {
        assert_eq!(event["entity"], "thing");
        assert_eq!(event["version"], token.version.get());
    }
    assert!(good[2]["lag_seconds"].as_f64() > Some(0.0), "{}", good[2]);
    copy.stop().await;
    let rest = async {
        while let Some(chunk) = chunks.next().await {
            chunk.expect("a clean end");
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_open_is_answered_when_the_service_stops() {
    let (_nats, _owner, copy) = started().await;
    let path = "wait?token=thing/42@1&timeout_ms=60000";
    let waiting = tokio::spawn(reqwest::get(copy.admin(path)));
    tokio::time::sleep(QUIET).await;
    assert!(!waiting.is_finished(), "nothing is applied");
    copy.stop().await;
    let answer = waiting.await.expect("no panic").expect("an answer, not a cut connection");
    let problem = problem(answer, 503).await;
    assert_eq!(problem["detail"], "copies is stopping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_paused_nothing_is_applied() {
    let (_nats, owner, copy) = started().await;
    copy.wait(&owner.put("before", json!(1)).await).await;
    // One is on the queue already, and one is yet to arrive.
    owner.misbehave(|_| Some(Fault::Status(500, None)));
    owner.put("42", json!(1)).await;
    eventually("it waits for another try", || async {
        (owner.times_asked("42") > 0).then_some(())
    })
    .await;
    assert_eq!(copy.post("pause").await, 200);
    eventually("nothing is under way", || async {
        (copy.status().await["processing"] == 0).then_some(())
    })
    .await;
    owner.behave();
    owner.put("43", json!(1)).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!((copy.body("42").await, copy.body("43").await), (None, None));
    assert_eq!(copy.status().await["paused"], true);
    assert_eq!(copy.post("resume").await, 200);
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_at_once_that_the_broker_is_gone() {
    let (mut nats, owner, copy) = started().await;
    copy.wait(&owner.put("42", json!(1)).await).await;
    assert_eq!(copy.metric("nudge_connected").await, 1);
    nats.kill();
    // The connection itself reports it; missing heartbeats would take seconds to show.
    eventually("the connection is lost", || async { (!copy.source.is_connected()).then_some(()) })
        .await;
    assert_eq!(copy.status().await["connected"], false);
    assert_eq!(copy.metric("nudge_connected").await, 0);
    nats.restart().await;
    copy.quiet().await;
    assert_eq!(copy.metric("nudge_connected").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_by_entity_and_never_by_id() {
    let (_nats, owner, copy) = started().await;
    copy.wait(&owner.put("an-id", json!(1)).await).await;
    let answer = fetch(&copy, "../../metrics").await;
    let text = answer.text().await.expect("a text");
    for series in [
        "nudge_received_total",
        "nudge_malformed_total",
        "nudge_callbacks_total",
        "nudge_asked_total",
        "nudge_fetched_total",
        "nudge_applied_total",
        "nudge_ignored_total",
        "nudge_retried_total",
        "nudge_dead_lettered_total",
        "nudge_read_model_replaced_total",
        "nudge_queued",
        "nudge_processing",
        "nudge_retrying",
        "nudge_parked",
        "nudge_dead_letters",
        "nudge_stream_pending",
        "nudge_breaker_open",
        "nudge_connected",
        "nudge_convergence_lag_seconds_count",
    ] {
        assert!(text.contains(&format!("\n{series}{{entity=\"thing\"}} ")), "{series}\n{text}");
    }
    assert!(!text.contains("an-id"), "{text}");
    assert_eq!(copy.metric("nudge_applied_total").await, 1);
    assert_eq!(copy.metric("nudge_convergence_lag_seconds_count").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_answered_as_a_problem() {
    let (_nats, _owner, copy) = started().await;
    for path in ["nothing", "applied", "applied/thing", "applied/thing/1/2", "../../nothing"] {
        problem(fetch(&copy, path).await, 404).await;
    }
    problem(fetch(&copy, "pause").await, 405).await;
    problem(fetch(&copy, "dead-letters?limit=0").await, 400).await;
    problem(fetch(&copy, "dead-letters?entity=other").await, 400).await;
    let http = reqwest::Client::new();
    for (method, path) in [
        ("POST", "dead-letters/thing/42/replay"),
        ("POST", "dead-letters/other/42/replay"),
        ("DELETE", "dead-letters/thing/42"),
    ] {
        let method = method.parse().expect("a method");
        let answer = http.request(method, copy.admin(path)).send().await.expect("an answer");
        problem(answer, 404).await;
    }
    assert_eq!(fetch(&copy, "../../livez").await.status(), StatusCode::OK);
}
