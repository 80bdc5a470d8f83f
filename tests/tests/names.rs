//! The names of durable consumers are few and fixed: an original and its copies each find one, and none takes what is
//! another's.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures_util::{StreamExt, TryStreamExt};
use nudge_protocol::{EntityName, subject::MAX_READ_MODELS};
use nudge_subscriber_kit::{
    MAX_UNUSED_AFTER, MIN_UNUSED_AFTER, Mirror, Settings, StartError, Subscriber,
    source::{Durable, Source},
};
use nudge_tests::{Copy, Nats, Owner, QUIET, ReadModel, TestDatabase, Wire, eventually};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

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
    unused_for(wire, name, 2 * UNUSED_AFTER).await;
}

async fn unused_for(wire: &Wire, name: &str, time: Duration) {
    eventually(&format!("nobody uses {name}"), || async {
        let info = wire.stream().consumer_info(name).await.ok()?;
        let last = [Some(info.created), info.delivered.last_active, info.ack_floor.last_active];
        let last = last.into_iter().flatten().max()?.unix_timestamp_nanos();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos() as i128;
        let idle = now - last > time.as_nanos() as i128;
        (info.num_waiting == 0 && idle).then_some(())
    })
    .await;
}

/// Leaves no name but the first to be taken: a name is taken over only if none is free, and of several the one that nobody
/// has used for longest.
async fn take_other_names(wire: &Wire) {
    for n in 2..=MAX_READ_MODELS {
        let config = pull::Config {
            durable_name: Some(format!("copies-thing-{n}")),
            metadata: [("nudge-read-model".to_owned(), format!("another-{n}"))].into(),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        wire.stream().create_consumer(config).await.expect("a consumer");
    }
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
    let (identity_before, model) = (identity(&original).await, original.stop().await);
    unused(&wire, "copies-thing").await;
    // It may come back: while there is another name, it keeps its own.
    let beside = quick().await.start(&nats.broker("copies").await, &owner).await;
    beside.converged(&owner).await;
    let found = consumers(&wire).await;
    assert_eq!(found["copies-thing"], Some(identity_before));
    assert_eq!(found["copies-thing-2"], Some(identity(&beside).await));
    beside.stop().await;
    wire.stream().delete_consumer("copies-thing-2").await.expect("it is deleted");
    take_other_names(&wire).await;
    let copy = quick().await.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    assert_eq!(consumers(&wire).await["copies-thing"], Some(identity(&copy).await));
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
    take_other_names(&wire).await;
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
    take_other_names(&wire).await;
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

/// As after a restart of the broker: for a moment nobody has a pull there, and nothing has happened for long where all is quiet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_pulls_again_within_the_time_keeps_its_name() {
    let nats = Nats::start().await;
    let wire = Wire::open(&nats).await;
    let settings = Settings { unused_after: Duration::from_secs(4), ..Settings::default() };
    let entity = EntityName::new("thing").expect("a name");
    let durable = |read_model: &'static str| {
        let (entity, settings) = (&entity, &settings);
        Durable { service: "copies", entity, read_model, settings, events: None }
    };
    let brokers = [nats.broker("copies").await, nats.broker("copies").await];
    let first = brokers[0].open(durable("a")).await.expect("it opens");
    take_other_names(&wire).await;
    for name in ["copies-thing", "copies-thing-4"] {
        unused_for(&wire, name, settings.unused_after).await;
    }
    let mut looks = nats.subscribe("$JS.API.CONSUMER.INFO.*.copies-thing").await;
    let pulls_again = async {
        // The other finds it unused, and looks again.
        for _ in 0..2 {
            looks.next().await.expect("a look");
        }
        let mut deliveries = first.deliveries().await.expect("deliveries");
        // Only who asks for messages pulls.
        tokio::spawn(async move { while deliveries.next().await.is_some() {} }).abort_handle()
    };
    let (second, pulls) = tokio::join!(brokers[1].open(durable("b")), pulls_again);
    second.expect("it opens");
    let found = consumers(&wire).await;
    assert_eq!(found["copies-thing"].as_deref(), Some("a"));
    assert_eq!(found["copies-thing-2"].as_deref(), Some("b"), "it takes another");
    pulls.abort();
}

/// However many messages wait to be acknowledged once it is no longer certain whose the consumer is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_acknowledgements_ask_once_whose_the_consumer_is() {
    let nats = Nats::start().await;
    let wire = Wire::open(&nats).await;
    for n in 0..50 {
        wire.announce(&format!("thing-{n}"), Some("7")).await;
    }
    let settings = Settings { unused_after: UNUSED_AFTER, ..Settings::default() };
    let (entity, broker) = (EntityName::new("thing").expect("a name"), nats.broker("copies").await);
    let (service, read_model, entity) = ("copies", "a", &entity);
    let durable = Durable { service, entity, read_model, settings: &settings, events: None };
    let consumer = broker.open(durable).await.expect("it opens");
    let held: Vec<_> = consumer.deliveries().await.expect("deliveries").take(50).collect().await;
    unused(&wire, "copies-thing").await;
    let mut asked = nats.subscribe("$JS.API.CONSUMER.INFO.*.copies-thing").await;
    let acks = held.into_iter().map(|one| async { one.unwrap().ack.expect("held").ack().await });
    futures_util::future::join_all(acks).await;
    Source::flush(&broker).await.expect("all is sent");
    let mut asks = 0;
    while tokio::time::timeout(QUIET, asked.next()).await.is_ok_and(|one| one.is_some()) {
        asks += 1;
    }
    // Whoever came while the first asked may ask once more, for all of them.
    assert!((1..=2).contains(&asks), "{asks}");
    eventually("all is acknowledged", || async {
        (wire.stream().consumer_info("copies-thing").await.ok()?.num_ack_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_is_never_taken_over_at_once_or_never() {
    let nats = Nats::start().await;
    let (db, broker) = (TestDatabase::new().await.open().await, nats.broker("copies").await);
    for unused_after in [Duration::ZERO, MIN_UNUSED_AFTER / 2, MAX_UNUSED_AFTER * 2, Duration::MAX]
    {
        let settings = Settings { unused_after, ..Settings::default() };
        let builder = Subscriber::builder("copies", &db, &broker).settings(settings);
        let builder =
            builder.follow("thing", "http://127.0.0.1:1", Mirror::<Thing>::table("thing"));
        let refused = builder.start(CancellationToken::new()).await.unwrap_err();
        assert!(matches!(refused, StartError::UnusedAfter), "{refused}");
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Thing {
    n: i64,
}
