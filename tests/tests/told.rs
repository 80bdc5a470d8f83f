//! An operator is told, once, of what needs one; and a destination that takes nothing harms nothing else.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use futures_util::StreamExt;
use nudge_protocol::{EntityName, WriteToken};
use nudge_publisher::Publisher;
use nudge_runtime::{
    BoxError, Broker,
    alerts::{AlertArgs, Alerts, MAX_PER_WINDOW, What},
    secret::Secret,
    serve,
};
use nudge_tests::{Copy, Fault, Nats, Owner, QUIET, ReadModel, eventually};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What a webhook was sent, and how it answers.
#[derive(Clone)]
struct Desk {
    taken: Arc<Mutex<Vec<Value>>>,
    /// The answers, the last of which is given again and again; `None` hangs.
    answers: Arc<Mutex<Vec<Option<u16>>>>,
}

/// A webhook. Stopped when dropped.
struct Hook {
    desk: Desk,
    url: String,
    stop: CancellationToken,
}

impl Hook {
    async fn start(answers: &[Option<u16>]) -> Self {
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = serve::bind(address).await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let desk = Desk { taken: Arc::default(), answers: Arc::new(Mutex::new(answers.to_vec())) };
        let router = Router::new().route("/hook", post(take)).with_state(desk.clone());
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(listener, router, stop.clone()));
        Self { desk, url, stop }
    }

    fn alerts(&self, broker: &Broker) -> Alerts {
        let args =
            AlertArgs { alert_webhook_url: Some(Secret::new(&self.url)), ..AlertArgs::default() };
        Alerts::start(&args, "copies", broker, self.stop.clone())
    }

    /// What it has taken of this kind.
    fn taken(&self, what: What) -> Vec<Value> {
        let taken = self.desk.taken.lock();
        taken.iter().filter(|one| one["what"] == what.as_str()).cloned().collect()
    }

    async fn takes(&self, what: What, count: usize) -> Value {
        let all = eventually(&format!("{count} × {}", what.as_str()), || async {
            Some(self.taken(what)).filter(|taken| taken.len() >= count)
        })
        .await;
        assert_eq!(all.len(), count, "{all:?}");
        all[count - 1].clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn take(State(desk): State<Desk>, body: String) -> StatusCode {
    let answer = {
        let mut answers = desk.answers.lock();
        if answers.len() > 1 { answers.remove(0) } else { answers[0] }
    };
    let Some(status) = answer else { return std::future::pending().await };
    let status = StatusCode::from_u16(status).expect("a status");
    if status.is_success() {
        desk.taken.lock().push(serde_json::from_str(&body).expect("JSON"));
    }
    status
}

async fn followed(hook: &Hook, model: ReadModel) -> (Nats, Owner, Copy) {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let broker = nats.broker("copies").await;
    let copy = model.alerts(hook.alerts(&broker)).start(&broker, &owner).await;
    copy.wait(&owner.put("first", json!(1)).await).await;
    (nats, owner, copy)
}

fn outcome(alerts: &Alerts, outcome: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    alerts.register(&mut registry);
    encode(&mut text, &registry).expect("it is written");
    let series = format!("nudge_alerts_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series)).expect("the series");
    value.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_told_once_and_again_after_it_ended_and_came_back() {
    let hook = Hook::start(&[Some(204)]).await;
    let (_nats, owner, copy) = followed(&hook, ReadModel::new().await).await;
    copy.refuse(|id| (id == "42").then(|| BoxError::from("a secret of somebody")));
    owner.put("42", json!("private")).await;
    let told = hook.takes(What::DeadLetter, 1).await;
    assert_eq!(
        (&told["service"], &told["entity"], &told["id"]),
        (&json!("copies"), &json!("thing"), &json!("42"))
    );
    assert!(
        told["what_to_do"].as_str().is_some_and(|text| text.contains("nudge dead-letters")),
        "{told}"
    );
    assert!(told["since"].as_str().is_some_and(|text| text.starts_with("20")), "{told}");
    assert!(
        !told.to_string().contains("secret") && !told.to_string().contains("private"),
        "{told}"
    );
    // Tried again, it is the same condition.
    assert_eq!(copy.post("dead-letters/thing/42/replay").await, 202);
    eventually("it fails again", || async {
        (copy.metric("nudge_dead_lettered_total").await >= 2).then_some(())
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(hook.taken(What::DeadLetter).len(), 1);
    copy.accept();
    let token = owner.put("42", json!(2)).await;
    copy.wait(&token).await;
    copy.refuse(|id| (id == "42").then(|| BoxError::from("planted")));
    owner.put("42", json!(3)).await;
    hook.takes(What::DeadLetter, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_owner_is_told_once_each_time() {
    let hook = Hook::start(&[Some(200)]).await;
    let (_nats, owner, copy) = followed(&hook, ReadModel::new().await).await;
    for outage in 1..=2 {
        owner.misbehave(|_| Some(Fault::Status(503, None)));
        let token: WriteToken = owner.put("42", json!(outage)).await;
        let told = hook.takes(What::BreakerOpen, outage).await;
        assert_eq!(told.get("id"), None, "{told}");
        owner.behave();
        copy.wait(&token).await;
    }
    assert_eq!(hook.taken(What::BreakerOpen).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_from_the_owner_and_an_altered_consumer_are_told() {
    let hook = Hook::start(&[Some(200)]).await;
    let mut model = ReadModel::new().await;
    model.settings.resync.enabled = true;
    model.settings.resync.interval = Duration::from_millis(100);
    model.settings.resync.recent_interval = Duration::from_millis(100);
    let (nats, owner, copy) = followed(&hook, model).await;
    let ghost = "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) VALUES ('thing', 'ghost', 7, 0, 0)";
    copy.db.write(sqlx::query(ghost)).await.expect("it is inserted");
    hook.takes(What::Difference, 1).await;
    copy.converged(&owner).await;
    let wire = nudge_tests::Wire::open(&nats).await;
    let name = wire.consumer("copies").await;
    wire.stream().delete_consumer(&name).await.expect("it is deleted");
    let later = (std::time::SystemTime::now() + Duration::from_secs(24 * 3600)).into();
    eventually("it is paused at the broker", || async {
        wire.stream().pause_consumer(&name, later).await.ok()
    })
    .await;
    hook.takes(What::ConsumerMended, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_is_tried_again_and_a_subject_is_told_meanwhile() {
    let hook = Hook::start(&[Some(500), Some(503), Some(200)]).await;
    let nats = Nats::start().await;
    let broker = nats.broker("copies").await;
    let mut heard = broker.client.subscribe("ops.alerts").await.expect("it is heard");
    broker.client.flush().await.expect("the server knows");
    let args = AlertArgs {
        alert_webhook_url: Some(Secret::new(&hook.url)),
        alert_subject: Some("ops.alerts".to_owned()),
        ..AlertArgs::default()
    };
    let alerts = Alerts::start(&args, "copies", &broker, hook.stop.clone());
    let alarm = alerts.of(&EntityName::new("thing").expect("a name"));
    alarm.raise(What::Difference, None);
    let message = heard.next().await.expect("a message");
    let message: Value = serde_json::from_slice(&message.payload).expect("JSON");
    assert_eq!(hook.takes(What::Difference, 1).await, message);
    // Each destination counts.
    eventually("both are counted", || async { (outcome(&alerts, "told") == 2).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_hangs_costs_the_work_nothing_and_what_is_too_much_is_counted() {
    let hook = Hook::start(&[None]).await;
    let (_nats, owner, copy) = followed(&hook, ReadModel::new().await).await;
    let bad: Vec<String> = (0..200).map(|n| format!("bad-{n}")).collect();
    copy.refuse(|id| id.starts_with("bad").then(|| BoxError::from("planted")));
    let bodies: Vec<_> = bad.iter().map(|id| (id.as_str(), json!(1))).collect();
    owner.put_all(&bodies).await;
    eventually("all are dead letters", || async {
        (copy.metric("nudge_dead_letters").await == 200).then_some(())
    })
    .await;
    copy.wait(&owner.put("good", json!(1)).await).await;
    let text = copy.metrics().await;
    let left_out = 200 - u64::from(MAX_PER_WINDOW);
    assert!(
        text.contains(&format!("\nnudge_alerts_total{{outcome=\"left-out\"}} {left_out}\n")),
        "{text}"
    );
    assert!(text.contains("\nnudge_alerts_total{outcome=\"told\"} 0\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_are_missing_are_told() {
    let hook = Hook::start(&[Some(200)]).await;
    let nats = Nats::start().await;
    let broker = nats.broker("shops").await;
    let database = nudge_tests::TestDatabase::new().await;
    let table = "CREATE TABLE shop (id TEXT NOT NULL PRIMARY KEY, name TEXT)";
    nudge_tests::database::execute(database.url(), table).await;
    let db = database.open().await;
    let publisher =
        Publisher::open(&db, EntityName::new("shop").expect("a name")).await.expect("it opens");
    let tables = nudge_publisher::capture::Tables::root("shop", "id");
    let publisher =
        publisher.alerts(&hook.alerts(&broker)).capture(&tables).await.expect("it is captured");
    publisher.spawn_relay(&broker, hook.stop.clone());
    let mut registry = Registry::default();
    publisher.register_metrics(&mut registry);
    let away = "ALTER TABLE shop RENAME TO shop_old; CREATE TABLE shop (id TEXT NOT NULL PRIMARY KEY, name TEXT)";
    nudge_tests::database::execute(database.url(), away).await;
    let told = hook.takes(What::CaptureLost, 1).await;
    assert_eq!(told["entity"], "shop");
    eventually("they are installed again, and that is counted", || async {
        let mut text = String::new();
        encode(&mut text, &registry).expect("it is written");
        text.contains("\nnudge_capture_mended_total{entity=\"shop\"} 1\n").then_some(())
    })
    .await;
}
