//! The names of durable consumers are few and fixed: an original and its copies each find one, and none takes what is
//! another's.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use nudge_protocol::{EntityName, subject::MAX_READ_MODELS};
use nudge_subscriber_kit::{
    Settings,
    source::{Durable, Source},
};
use nudge_tests::{Copy, Nats, Owner, QUIET, ReadModel, Wire, eventually};
use serde_json::json;

/// Whose the consumers are: names, and identities of read models.
async fn consumers(wire: &Wire) -> BTreeMap<String, Option<String>> {
    let all = wire.stream().consumers().map_ok(|one| {
        let read_model = one.config.metadata.get("nudge-read-model").cloned();
        (one.name, read_model)
    });
    all.try_collect().await.expect("consumers")
}

async fn identity(copy: &Copy) -> String {
    let row = sqlx::query_as("SELECT consumer FROM nudge_intake").fetch_one(copy.db.reader());
    let (consumer,): (String,) = row.await.expect("a row");
    consumer
}

/// Waits until nobody has used a consumer for as long as [`quick`] says, by the broker's clock, which is also ours.
async fn unused(wire: &Wire, name: &str) {
    eventually(&format!("nobody uses {name}"), || async {
        let info = wire.stream().consumer_info(name).await.ok()?;
        let last = [Some(info.created), info.delivered.last_active, info.ack_floor.last_active];
        let last = last.into_iter().flatten().max()?.unix_timestamp_nanos();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos() as i128;
        let idle = now - last > 2 * UNUSED_AFTER.as_nanos() as i128;
        (info.num_waiting == 0 && idle).then_some(())
    })
    .await;
}

/// When a read model takes over what nobody uses, in these tests.
const UNUSED_AFTER: Duration = Duration::from_millis(100);

/// A read model that soon takes over what nobody uses.
async fn quick() -> ReadModel {
    let mut model = ReadModel::new().await;
    model.settings.unused_after = UNUSED_AFTER;
    model
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_that_start_at_once_are_each_told_of_everything() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut models = Vec::new();
    for _ in 0..MAX_READ_MODELS {
        models.push((ReadModel::new().await, nats.broker("copies").await));
    }
    let starts = models.into_iter().map(|(model, broker)| {
        let owner = &owner;
        async move { model.start(&broker, owner).await }
    });
    let copies = futures_util::future::join_all(starts).await;
    for n in 0..30 {
        owner.put(&format!("thing-{}", n % 20), json!(n)).await;
    }
    for copy in &copies {
        copy.converged(&owner).await;
    }
    let mut identities = Vec::new();
    for copy in &copies {
        identities.push(Some(identity(copy).await));
    }
    let found = consumers(&wire).await;
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["copies-thing", "copies-thing-2", "copies-thing-3", "copies-thing-4"]);
    let mut holders: Vec<_> = found.into_values().collect();
    holders.sort();
    identities.sort();
    assert_eq!(holders, identities);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_for_which_no_name_is_left_says_so_and_gets_the_next_that_is_free() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut copies = Vec::new();
    for _ in 0..MAX_READ_MODELS {
        copies.push(quick().await.start(&nats.broker("copies").await, &owner).await);
    }
    for copy in &copies {
        copy.wait(&owner.put("42", json!("first")).await).await;
    }
    let late = quick().await.start(&nats.broker("copies").await, &owner).await;
    eventually("it says why it is told of nothing", || async {
        let error = late.status().await["last_error"].as_str()?.to_owned();
        (error.contains("copies-thing-4") && error.contains("in use")).then_some(())
    })
    .await;
    assert!(late.all().await.is_empty());
    copies.pop().expect("a copy").stop().await;
    late.converged(&owner).await;
    owner.put("43", json!("second")).await;
    for copy in copies.iter().chain([&late]) {
        copy.converged(&owner).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_nobody_uses_any_more_is_taken_over_and_nothing_is_missed() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let original = quick().await.start(&nats.broker("copies").await, &owner).await;
    owner.put("42", json!("only the original has acknowledged this")).await;
    original.converged(&owner).await;
    let model = original.stop().await;
    unused(&wire, "copies-thing").await;
    let copy = quick().await.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    let ours = BTreeMap::from([("copies-thing".to_owned(), Some(identity(&copy).await))]);
    assert_eq!(consumers(&wire).await, ours);
    // The original comes back, finds its name taken, and has missed nothing either.
    owner.put("43", json!("only the copy is told of this")).await;
    copy.converged(&owner).await;
    let original = model.start(&nats.broker("copies").await, &owner).await;
    for n in 0..5 {
        owner.put("44", json!(n)).await;
        original.converged(&owner).await;
        copy.converged(&owner).await;
    }
    let found = consumers(&wire).await;
    assert_eq!(found["copies-thing"], Some(identity(&copy).await));
    assert_eq!(found["copies-thing-2"], Some(identity(&original).await));
}

/// Pausing needs no pull, and a name is not fought over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_paused_while_its_name_was_taken_over_goes_on_under_another() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let original = quick().await.start(&nats.broker("copies").await, &owner).await;
    original.wait(&owner.put("42", json!("first")).await).await;
    assert_eq!(original.post("pause").await, 200);
    let first = identity(&original).await;
    unused(&wire, "copies-thing").await;
    let copy = quick().await.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    owner.put("43", json!("while paused")).await;
    copy.converged(&owner).await;
    assert_eq!(original.post("resume").await, 200);
    for n in 0..5 {
        owner.put("44", json!(n)).await;
        original.converged(&owner).await;
        copy.converged(&owner).await;
    }
    assert_eq!(identity(&original).await, first);
}

/// The consumer of an earlier release, whose name held the identity of the read model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_of_an_earlier_release_is_removed_once_nobody_uses_it() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let copy = quick().await.start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("42", json!("first")).await).await;
    let (identity, model) = (identity(&copy).await, copy.stop().await);
    let former = format!("copies-thing-{identity}");
    let config = pull::Config {
        durable_name: Some(former.clone()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer: PullConsumer = wire.stream().create_consumer(config.clone()).await.unwrap();
    // Another read model's, of which nobody knows whether it will come back.
    let durable_name = Some("copies-thing-0123456789abcdef0123456789abcdef".to_owned());
    wire.stream().create_consumer(pull::Config { durable_name, ..config }).await.unwrap();
    // A replica of that release, which still runs.
    let pulls = consumer.messages().await.unwrap();
    let mut pulls = pulls.map_ok(|message| message.subject.clone());
    assert!(pulls.try_next().await.unwrap().is_some());
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("43", json!("side by side")).await).await;
    assert!(consumers(&wire).await.contains_key(&former), "it is in use");
    drop(pulls);
    let left = ["copies-thing", "copies-thing-0123456789abcdef0123456789abcdef"];
    eventually("only what may be needed is left", || async {
        let found = consumers(&wire).await;
        found.keys().eq(left).then_some(())
    })
    .await;
    copy.wait(&owner.put("44", json!("after it")).await).await;
}

/// As a replica does that was frozen, or whose acknowledgement was on its way for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lost_its_name_acknowledges_nothing_of_its_successor() {
    let nats = Nats::start().await;
    let wire = Wire::open(&nats).await;
    wire.announce("42", Some("7")).await;
    let settings = Settings { unused_after: UNUSED_AFTER, ..Settings::default() };
    let entity = EntityName::new("thing").expect("a name");
    let durable = |read_model: &'static str| {
        let (entity, settings) = (&entity, &settings);
        Durable { service: "copies", entity, read_model, settings, events: None }
    };
    let pending = async || {
        wire.stream().consumer_info("copies-thing").await.expect("a consumer").num_ack_pending
    };
    let brokers = [nats.broker("copies").await, nats.broker("copies").await];
    let first = brokers[0].open(durable("a")).await.expect("it opens");
    let mut deliveries = first.deliveries().await.expect("deliveries");
    let held = deliveries.next().await.expect("a message").expect("no error");
    drop(deliveries);
    unused(&wire, "copies-thing").await;
    let second = brokers[1].open(durable("b")).await.expect("it opens");
    let mut deliveries = second.deliveries().await.expect("deliveries");
    let other = deliveries.next().await.expect("a message").expect("no error");
    assert_eq!((held.sequence, other.sequence, pending().await), (1, 1, 1));
    held.ack.expect("it is held").ack().await;
    Source::flush(&brokers[0]).await.expect("all is sent");
    tokio::time::sleep(QUIET).await;
    assert_eq!(pending().await, 1, "the successor has not handled it");
    other.ack.expect("it is held").ack().await;
    eventually("it is handled", || async { (pending().await == 0).then_some(()) }).await;
}
