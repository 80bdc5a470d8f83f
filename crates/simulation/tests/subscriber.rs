//! A subscriber alone, in virtual time: its owner hangs, fails or panics for some keys.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use nudge_protocol::{
    EntityId, EntityName, Version,
    sync_api::{Item, ItemStatus},
};
use nudge_publisher::sink::Message;
use nudge_runtime::{BoxError, Tx};
use nudge_simulation::ports::SimulatedBroker;
use nudge_subscriber_kit::{
    Apply, EntityState, Settings, Subscriber,
    owner_client::{FetchError, FetchErrorKind, Fetching, OwnerClient, Probing},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn thing() -> EntityName {
    EntityName::new("thing").unwrap()
}

/// What an owner does with a call for some keys.
enum Does {
    Answers,
    Fails,
    Panics,
    /// Answers once this is cancelled.
    Waits(CancellationToken),
}

type Rule = Box<dyn Fn(&[&str]) -> Does + Send + Sync>;

/// An owner of whatever it is asked for.
struct Owner {
    rule: Rule,
    asked: Mutex<Vec<Vec<String>>>,
}

impl Owner {
    fn new(rule: impl Fn(&[&str]) -> Does + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { rule: Box::new(rule), asked: Mutex::default() })
    }

    fn was_asked(&self, ids: &[&str]) -> bool {
        self.asked.lock().iter().any(|asked| asked == ids)
    }
}

impl OwnerClient for Owner {
    fn batch_get<'a>(
        &'a self,
        _: &'a EntityName,
        ids: &'a [EntityId],
        _: &'a [&'static str],
    ) -> Fetching<'a> {
        Box::pin(async move {
            let mut sorted: Vec<_> = ids.iter().map(EntityId::as_str).collect();
            sorted.sort_unstable();
            self.asked.lock().push(sorted.iter().map(ToString::to_string).collect());
            match (self.rule)(&sorted) {
                Does::Answers => {}
                Does::Fails => return Err(FetchError::new(FetchErrorKind::Broken, "it fails")),
                Does::Panics => panic!("the way to the owner panics"),
                Does::Waits(until) => until.cancelled().await,
            }
            let item = |id: &EntityId| Item {
                id: id.clone(),
                status: ItemStatus::Live,
                version: Version::new(9).ok(),
                changed_at: None,
                state: serde_json::value::to_raw_value(&()).ok(),
            };
            Ok(ids.iter().map(item).collect())
        })
    }

    fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
        Box::pin(async { Ok(()) })
    }
}

/// A handler that keeps nothing.
struct Nothing;

impl Apply for Nothing {
    type State = Value;

    async fn apply(&self, _: &mut Tx, _: &[EntityState<Value>]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A subscriber of `thing`s. Stopped when dropped.
struct Copy {
    broker: SimulatedBroker,
    subscriber: Subscriber,
    _stop: tokio_util::sync::DropGuard,
}

impl Copy {
    async fn start(owner: Arc<Owner>, settings: Settings) -> Self {
        let (broker, stop) = (SimulatedBroker::new(7), CancellationToken::new());
        broker.sink().ensure(&thing()).await.expect("a stream");
        let db = broker.database().await;
        let builder = Subscriber::builder_from("copies", &db, broker.source());
        let builder = builder.follow_with("thing", owner, Nothing).settings(settings);
        let subscriber = builder.start(stop.clone()).await.expect("it starts");
        Self { broker, subscriber, _stop: stop.drop_guard() }
    }

    async fn announce(&self, id: &str) {
        let subject = format!("changes.thing.{id}");
        let (version, headers) = ("1".to_owned(), Vec::new());
        let message = Message { subject, version, body: b"{}".to_vec(), headers };
        self.broker.sink().publish(&thing(), message).await.expect("it is published");
    }

    async fn get(&self, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer = self.subscriber.router().oneshot(request).await.expect("an answer");
        let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        String::from_utf8(body.to_vec()).expect("a text")
    }

    async fn status(&self) -> Value {
        let status: Value = serde_json::from_str(&self.get("/nudge/v1/status").await).unwrap();
        status["entities"][0].clone()
    }

    /// How many messages it was given, those that came again included.
    async fn received(&self) -> u64 {
        let metrics = self.get("/metrics").await;
        let series = "nudge_received_total{entity=\"thing\"} ";
        let received = metrics.lines().find_map(|line| line.strip_prefix(series));
        received.expect("the metric").parse().expect("a number")
    }

    async fn becomes(&self, field: &str, value: u64) {
        let began = tokio::time::Instant::now();
        while self.status().await[field] != value {
            assert!(began.elapsed() < PATIENCE, "{field}: {:#}", self.status().await);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Announces these so that they are asked for at once, in one batch: while "first" is waited for, they queue.
    async fn announce_together(&self, ids: &[&str], first: &CancellationToken) {
        self.announce("first").await;
        self.becomes("processing", 1).await;
        for id in ids {
            self.announce(id).await;
        }
        self.becomes("queued", ids.len() as u64).await;
        first.cancel();
    }
}

fn one_batch_at_a_time() -> Settings {
    Settings { max_batches_in_flight: 1, ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_that_panics_all_but_the_key_that_causes_it_are_applied() {
    let (first, mended) = (CancellationToken::new(), CancellationToken::new());
    let (waits, panics) = (first.clone(), mended.clone());
    let owner = Owner::new(move |ids| match ids {
        ["first"] => Does::Waits(waits.clone()),
        _ if ids.contains(&"bad") && !panics.is_cancelled() => Does::Panics,
        _ => Does::Answers,
    });
    let copy = Copy::start(owner.clone(), one_batch_at_a_time()).await;
    copy.announce_together(&["a", "b", "bad", "c", "d"], &first).await;
    copy.becomes("applied", 5).await;
    assert!(owner.was_asked(&["a", "b", "bad", "c", "d"]) && owner.was_asked(&["bad"]));
    mended.cancel();
    copy.becomes("applied", 6).await;
    copy.becomes("position", 6).await;
}

/// One half of a batch that failed hangs. The broker is told that the other one is not forgotten.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_other_half_of_its_batch_does_not_come_again() {
    let (first, end) = (CancellationToken::new(), CancellationToken::new());
    let (waits, hangs) = (first.clone(), end.clone());
    let owner = Owner::new(move |ids| match ids {
        ["first"] => Does::Waits(waits.clone()),
        ["a", "b"] => Does::Fails,
        ["a"] => Does::Waits(hangs.clone()),
        _ => Does::Answers,
    });
    let settings = one_batch_at_a_time();
    let copy = Copy::start(owner.clone(), settings).await;
    copy.announce_together(&["a", "b"], &first).await;
    // A run that hangs for longer is given up to another replica.
    sleep(settings.ack_wait * 3).await;
    assert!(owner.was_asked(&["a"]) && !owner.was_asked(&["b"]));
    assert_eq!(copy.received().await, 3);
    end.cancel();
    copy.becomes("applied", 3).await;
    copy.becomes("position", 3).await;
}

/// It may be given no more before it acknowledges some: nothing is wrong with the broker.
#[tokio::test(start_paused = true)]
async fn nobody_withholds_what_a_full_window_has_no_room_for() {
    let end = CancellationToken::new();
    let hangs = end.clone();
    let owner = Owner::new(move |ids| match ids.iter().any(|id| id.starts_with("slow")) {
        true => Does::Waits(hangs.clone()),
        false => Does::Answers,
    });
    let settings = Settings { max_ack_pending: 3, ..Settings::default() };
    let copy = Copy::start(owner, settings).await;
    for id in ["slow-1", "slow-2", "slow-3", "waits"] {
        copy.announce(id).await;
    }
    // The last one is read past the window, and asked for together with the others.
    copy.becomes("processing", 4).await;
    for _ in 0..60 {
        sleep(SECOND).await;
        let status = copy.status().await;
        assert_eq!(status["connected"], true, "{status:#}");
    }
    end.cancel();
    copy.becomes("applied", 4).await;
    copy.becomes("position", 4).await;
}
