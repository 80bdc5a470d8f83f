//! What `/metrics` offers, and the page about it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nudge_protocol::EntityName;
use nudge_publisher::sink::{self, Looked, Message, Sink, Stored, StreamInfo};
use nudge_runtime::{Broker, clock};
use nudge_subscriber_kit::source::{Asking, Consumer, Durable, Source};
use nudge_tests::{
    Copy, Fault, Nats, Owner, ReadModel, eventually,
    metrics::{from_the_start, metrics, page},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The names of `docs/metrics.md` belong to the public contract: rules and dashboards of others use them.
mod once {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_page_is_made_from_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page_there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page_there == page().await,
            "docs/metrics.md is not what the code says: run \
             `cargo run -q -p nudge-tests --example metrics > docs/metrics.md`"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_series_is_there_from_the_start_at_zero_with_a_unit_and_a_meaning() {
        let (owner, subscriber) = from_the_start().await;
        // What is no number of anything that has happened.
        let may_differ = ["nudge_relay_errors", "nudge_resync_sweeps"];
        for metric in metrics(&owner).into_iter().chain(metrics(&subscriber)) {
            assert!(!metric.series.is_empty(), "{} has no series", metric.name);
            let zero = metric.values.iter().all(|value| *value == 0.0);
            assert!(zero || may_differ.contains(&&*metric.name), "{metric:?}");
            assert!(
                metric.meaning.len() > 10
                    && metric.meaning.starts_with(|c: char| !c.is_lowercase())
            );
            let labels: BTreeSet<_> = metric.labels.keys().map(String::as_str).collect();
            let known =
                ["class", "entity", "effect", "kind", "lane", "outcome", "subscriber", "why"]
                    .into();
            assert!(labels.is_subset(&known), "{} has labels {labels:?}", metric.name);
            let named_twice = ["_total", "_count", "_sum", "_bucket"];
            assert!(
                !named_twice.iter().any(|suffix| metric.name.ends_with(suffix)),
                "{}",
                metric.name
            );
            // Durations and sizes are in base units.
            for unit in ["_ms", "_millis", "_micros", "_minutes", "_kb", "_mb"] {
                assert!(!metric.name.ends_with(unit), "{}", metric.name);
            }
        }
    }
}

/// The value of a series, which is named with its labels.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).trim().parse().expect("a number")
}

async fn started(settings: impl FnOnce(&mut ReadModel)) -> (Nats, Owner, Copy) {
    let nats = Nats::start().await;
    let (owner, mut model) =
        (Owner::start(&nats.broker("things").await).await, ReadModel::new().await);
    settings(&mut model);
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("first", json!(1)).await).await;
    (nats, owner, copy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_counted_by_outcome_and_progress_has_its_moment() {
    let (_nats, owner, copy) = started(|_| ()).await;
    let text = copy.metrics().await;
    let outcome = |text: &str, outcome| {
        value(
            text,
            &format!("nudge_callback_outcomes_total{{entity=\"thing\",outcome=\"{outcome}\"}}"),
        )
    };
    assert!(outcome(&text, "answered") >= 1.0);
    assert_eq!(outcome(&text, "unavailable"), 0.0);
    assert!(value(&text, "nudge_batch_keys_count{entity=\"thing\"}") >= 1.0);
    assert!(value(&text, "nudge_callback_duration_seconds_count{entity=\"thing\"}") >= 1.0);
    let progressed = value(&text, "nudge_last_progress_timestamp_seconds{entity=\"thing\"}");
    let now = clock::now().unix_micros() as f64 / 1e6;
    assert!((now - progressed).abs() < 60.0, "{progressed} is not {now}");
    owner.misbehave(|_| Some(Fault::Status(503, Some(0))));
    owner.put("second", json!(1)).await;
    eventually("the failed callback is counted", || async {
        (outcome(&copy.metrics().await, "unavailable") >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_has_an_age_although_it_is_delayed() {
    let (_nats, owner, copy) = started(|_| ()).await;
    owner.misbehave(|_| Some(Fault::Status(503, Some(60))));
    owner.put("second", json!(1)).await;
    eventually("it has waited for two seconds", || async {
        let text = copy.metrics().await;
        let waited = value(&text, "nudge_oldest_waiting_seconds{entity=\"thing\"}");
        (waited > 2.0 && value(&text, "nudge_queued{entity=\"thing\"}") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_has_an_age_and_what_comes_meanwhile_is_coalesced() {
    let slow = |model: &mut ReadModel| model.settings.fetch_timeout = Duration::from_secs(8);
    let (_nats, owner, copy) = started(slow).await;
    owner.misbehave(|_| Some(Fault::Hang));
    owner.put("second", json!(0)).await;
    eventually("it is asked for", || async { (owner.times_asked("second") == 1).then_some(()) })
        .await;
    let received = copy.metric("nudge_received_total").await;
    for n in 1..=3 {
        owner.put("second", json!(n)).await;
        eventually("it is heard of", || async {
            (copy.metric("nudge_received_total").await >= received + n).then_some(())
        })
        .await;
    }
    assert!(copy.metric("nudge_coalesced_total").await >= 2);
    eventually("it has run for two seconds", || async {
        let text = copy.metrics().await;
        (value(&text, "nudge_longest_run_seconds{entity=\"thing\"}") > 2.0).then_some(())
    })
    .await;
    owner.behave();
    eventually("nothing runs any more", || async {
        let text = copy.metrics().await;
        let none = ["nudge_longest_run_seconds", "nudge_oldest_waiting_seconds"];
        none.iter()
            .all(|name| value(&text, &format!("{name}{{entity=\"thing\"}}")) == 0.0)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_not_published_has_an_age() {
    let mut nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut registry = Registry::default();
    owner.publisher.register_metrics(&mut registry);
    let age = || {
        let mut text = String::new();
        encode(&mut text, &registry).expect("it is written");
        value(&text, "nudge_relay_oldest_pending_seconds{entity=\"thing\"}")
    };
    owner.put("published", json!(1)).await;
    eventually("it is published", || async {
        (owner.publisher.health().published == 1).then_some(())
    })
    .await;
    eventually("nothing is pending", || async { (age() == 0.0).then_some(()) }).await;
    nats.stop().await;
    owner.put("42", json!(1)).await;
    eventually("it has been pending for two seconds", || async { (age() > 2.0).then_some(()) })
        .await;
    nats.restart().await;
    eventually("nothing is pending", || async { (age() == 0.0).then_some(()) }).await;
}

/// Panics in the task that opens it.
struct Panicking(Broker);

impl Source for Panicking {
    fn open<'a>(&'a self, _: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        panic!("planted")
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.0.connections()
    }

    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }

    fn last_error(&self) -> Option<String> {
        self.0.last_error()
    }

    fn flush(&self) -> Asking<'_, ()> {
        Source::flush(&self.0)
    }
}

impl Sink for Panicking {
    fn ensure<'a>(&'a self, _: &'a EntityName) -> sink::Asking<'a, StreamInfo> {
        panic!("planted")
    }

    fn mend<'a>(&'a self, _: &'a EntityName) -> sink::Asking<'a, Option<String>> {
        unreachable!("it is looked at first")
    }

    fn publish<'a>(&'a self, _: &'a EntityName, _: Message) -> sink::Asking<'a, u64> {
        unreachable!("it is looked at first")
    }

    fn beyond<'a>(&'a self, _: &'a EntityName, _: u64, _: usize) -> sink::Asking<'a, Vec<Stored>> {
        unreachable!("it is looked at first")
    }

    fn look_up<'a>(
        &'a self,
        _: &'a EntityName,
        _: Vec<String>,
    ) -> sink::Asking<'a, Option<Looked>> {
        unreachable!("it is looked at first")
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.0.connections()
    }

    fn is_connected(&self) -> bool {
        self.0.is_connected()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_relay_is_counted() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let mut registry = Registry::default();
    owner.publisher.register_metrics(&mut registry);
    let sink = Arc::new(Panicking(nats.broker("things").await));
    owner.publisher.spawn_relay_to(sink, CancellationToken::new());
    eventually("it is counted", || async {
        let mut text = String::new();
        encode(&mut text, &registry).expect("it is written");
        (value(&text, "nudge_relay_dead_tasks{entity=\"thing\"}") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_task_makes_the_replica_unready_and_is_named() {
    // It has caught up before: nothing else keeps it from being ready.
    let (nats, owner, copy) = started(|_| ()).await;
    eventually("it is ready", || async { copy.subscriber.is_ready().then_some(()) }).await;
    let source = Arc::new(Panicking(nats.broker("copies").await));
    let copy = copy.stop().await.start_from(source, &owner).await;
    eventually("it is named", || async {
        let ready = reqwest::get(copy.admin("../../readyz")).await.expect("an answer");
        let (status, body) = (ready.status(), ready.json::<Value>().await.expect("JSON"));
        let only_that = body["catching_up"] == json!([]) && body["database"] == true;
        (status == 503 && only_that && body["dead_tasks"] == json!(["thing: intake"])).then_some(())
    })
    .await;
    assert_eq!(copy.metric("nudge_dead_tasks").await, 1);
    assert_eq!(reqwest::get(copy.admin("../../livez")).await.expect("an answer").status(), 200);
}
