//! What subscribers and owners answer about single entities.

use std::time::Instant;

use nudge_tests::{Copy, Fault, Nats, Owner, Wire, copy::quick, eventually};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::FOREVER;

/// Nothing was watching while it happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_that_shared_a_callback_are_counted_afterwards() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, quick()).await;
    let keys = async || ask(&copy, json!({"ids": ["42"]})).await["items"][0].take();
    let answered = CancellationToken::new();
    let gate = answered.clone();
    owner.misbehave(move |_| Some(Fault::Until(gate.clone())));
    let token = owner.put("42", json!(1)).await;
    wire.notify(&token).await;
    eventually("it is being asked for", || async {
        (keys().await["state"] == "processing").then_some(())
    })
    .await;
    for _ in 0..12 {
        let before = copy.metric("nudge_received_total").await;
        wire.notify(&token).await;
        eventually("the notification has arrived", || async {
            (copy.metric("nudge_received_total").await > before).then_some(())
        })
        .await;
    }
    // A broker may deliver one twice.
    let received = copy.metric("nudge_received_total").await;
    answered.cancel();
    let key = eventually("both runs are over", || async {
        Some(keys().await).filter(|key| key["runs"].as_array().is_some_and(|runs| runs.len() == 2))
    })
    .await;
    let [first, second] = &key["runs"].as_array().unwrap()[..] else { panic!("{key}") };
    assert_eq!((&first["outcome"], &second["outcome"]), (&json!("applied"), &json!("ignored")));
    let [began, after] = [first, second].map(|run| run["notifications"].as_u64().unwrap());
    assert!(began >= 1 && after >= 12 && began + after == received, "{key}");
    assert_eq!((&second["sequence"], owner.times_asked("42")), (&json!(13), 2));
}

/// The answer to `POST keys`.
async fn ask(copy: &Copy, body: Value) -> Value {
    let request = reqwest::Client::new().post(copy.admin("keys/thing")).json(&body);
    request.send().await.expect("an answer").json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_told_in_the_order_in_which_they_are_asked_for() {
    let mut settings = quick();
    settings.retry.initial = FOREVER;
    settings.retry.max = FOREVER;
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    copy.wait(&owner.put("good", json!(1)).await).await;
    copy.refuse(|id| (id == "dead").then(|| "refused".into()));
    let bad = |ids: &[String]| ids.contains(&"bad".to_owned());
    owner.misbehave(move |ids| bad(ids).then_some(Fault::Status(500, None)));
    for id in ["dead", "bad"] {
        owner.put(id, json!(1)).await;
    }
    let ids = ["none", "bad", "dead", "good", "bad"];
    let answer = eventually("one is retried and one is a dead letter", || async {
        let answer = ask(&copy, json!({"ids": ids})).await;
        let states = answer["items"].as_array()?.iter().map(|key| key["state"].as_str());
        let states: Vec<_> = states.collect::<Option<_>>()?;
        (states == ["idle", "retrying", "dead_letter", "idle", "retrying"]).then_some(answer)
    })
    .await;
    let told = answer["items"].as_array().unwrap();
    assert!(told.iter().zip(ids).all(|(key, id)| key["id"] == id), "{answer}");
    let work = &told[1]["work"];
    assert_eq!((&work["attempts"], &work["notifications"]), (&json!(1), &json!(1)));
    assert!(work["error"].as_str().unwrap().contains("500"), "{work}");
    assert!(work["not_before"].is_string() && work["floor"].is_u64(), "{work}");
    assert_eq!(told[2]["dead_letter"]["error"].as_str().map(|e| e.contains("refused")), Some(true));
    assert!(told[0]["applied"].is_null() && told[3]["applied"]["version"].is_u64(), "{answer}");

    for (path, body, status, field) in [
        ("keys/thing", json!({"ids": []}), 422, "ids"),
        ("keys/thing", json!({"ids": vec!["x"; 257]}), 422, "ids"),
        ("keys/thing", json!({"ids": ["a", ""]}), 422, "ids[1]"),
        ("keys/thing", json!({"ids": ["a"], "id": 1}), 422, "id"),
        ("keys/other", json!({"ids": ["a"]}), 404, ""),
    ] {
        let request = reqwest::Client::new().post(copy.admin(path)).json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert!(field.is_empty() || problem["errors"][0]["field"] == field, "{problem}");
    }
}

/// The answer to `POST change-log`.
async fn change_log(owner: &Owner, body: Value) -> (u16, Value) {
    let url = format!("{}/sync/v1/thing/change-log", owner.url());
    let answer = reqwest::Client::new().post(url).json(&body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_tells_what_its_log_and_the_stream_hold() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let token = owner.put("42", json!(1)).await;
    owner.delete("gone").await;
    // Without a relay, this process has no connection to the broker.
    let (status, answer) = change_log(&owner, json!({"ids": ["42"]})).await;
    assert_eq!((status, &answer["stream"]), (200, &Value::Null), "{answer}");
    assert_eq!(answer["items"][0]["recorded"]["pending"], true, "{answer}");
    assert_eq!(answer["items"][0]["recorded"]["sequence"], Value::Null, "{answer}");

    owner.second_relay(&nats.broker("things").await);
    let ids = json!({"ids": ["none", "42", "gone", "42"]});
    let answer = eventually("everything is published and marked", || async {
        let (_, answer) = change_log(&owner, ids.clone()).await;
        let items = answer["items"].as_array()?;
        items[1..].iter().all(|item| item["recorded"]["pending"] == false).then_some(answer)
    })
    .await;
    let items = answer["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["none", "42", "gone", "42"]);
    assert_eq!(items[0], json!({"id": "none", "recorded": null, "message": null}));
    let (recorded, message) = (&items[1]["recorded"], &items[1]["message"]);
    assert_eq!(recorded["version"], token.version.get());
    assert_eq!(recorded["published_version"], token.version.get());
    assert_eq!(message["version"], token.version.get());
    assert_eq!((&message["sequence"], &items[1]), (&recorded["sequence"], &items[3]));
    assert!(message["published_at"].as_str() >= recorded["changed_at"].as_str(), "{answer}");
    assert_eq!(items[2]["recorded"]["deleted"], true);
    assert_eq!(answer["stream"]["last_sequence"], 2);

    for ids in [json!([]), json!(vec!["x"; 257])] {
        let (status, problem) = change_log(&owner, json!({ "ids": ids })).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("ids")));
    }
    drop(nats);
    let began = Instant::now();
    let (status, answer) = change_log(&owner, json!({"ids": ["42"]})).await;
    assert_eq!((status, &answer["stream"]), (200, &Value::Null), "{answer}");
    assert_eq!(answer["items"][0]["recorded"]["pending"], false);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
