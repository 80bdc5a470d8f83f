//! The durable consumer lives at the broker, where others can change it: an operator pauses or alters it, a tool
//! recreates it, a server loses track. Changes arrive all the same, or the status says why not.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::{StreamExt, stream};
use nudge_runtime::Broker;
use nudge_subscriber_kit::source::{Asking, Consumer, ConsumerState, Deliveries, Durable, Source};
use nudge_tests::{Copy, Nats, Owner, ReadModel, Wire, eventually};
use serde_json::json;
use tokio::sync::watch;

/// A copy that has caught up, its owner, and the name of its consumer.
async fn followed(settings: impl FnOnce(&mut ReadModel)) -> (Nats, Owner, Wire, Copy, String) {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut model = ReadModel::new().await;
    settings(&mut model);
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("first", json!(1)).await).await;
    let name = wire.consumer("copies").await;
    (nats, owner, wire, copy, name)
}

async fn found(wire: &Wire, name: &str) -> consumer::Config {
    wire.stream().consumer_info(name).await.expect("the consumer is there").config
}

type Change = fn(&mut pull::Config);

/// Alters the existing configuration, as an operator's tool would.
async fn alter(wire: &Wire, name: &str, alter: impl FnOnce(&mut pull::Config)) {
    let found: PullConsumer = wire.stream().get_consumer(name).await.expect("it pulls");
    let mut config =
        consumer::FromConsumer::try_from_consumer_config(found.cached_info().config.clone())
            .expect("it pulls");
    alter(&mut config);
    wire.stream().update_consumer(config).await.expect("the server alters it");
}

async fn make_anew(wire: &Wire, name: &str, make: impl FnOnce(&mut pull::Config)) {
    let mut config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    make(&mut config);
    // A running subscriber recreates it as soon as it is gone.
    eventually("it is made by somebody else", || async {
        let _ = wire.stream().delete_consumer(name).await;
        wire.stream().create_consumer_strict(config.clone()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_paused_at_the_broker_goes_on() {
    let (_nats, owner, wire, copy, name) = followed(|_| ()).await;
    let later = (std::time::SystemTime::now() + Duration::from_secs(24 * 3600)).into();
    wire.stream().pause_consumer(&name, later).await.expect("it is paused");
    copy.wait(&owner.put("42", json!("while paused")).await).await;
    let paused = wire.stream().consumer_info(&name).await.expect("it is there").paused;
    assert!(!paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_altered_at_the_broker_skips_nothing() {
    let (_nats, owner, wire, copy, name) =
        followed(|model| model.settings.mend_interval = Duration::ZERO).await;
    let needed = found(&wire, &name).await;
    let alterations: [(&str, Change); 8] = [
        ("other filter", |c| c.filter_subject = "changes.thing.nobody".into()),
        ("several filters", |c| {
            c.filter_subjects = vec!["changes.thing.a".into(), "changes.thing.b".into()];
        }),
        ("few deliveries", |c| c.max_deliver = 1),
        ("one at a time", |c| c.max_ack_pending = 1),
        ("soon forgotten", |c| c.inactive_threshold = Duration::from_secs(60)),
        ("soon again", |c| c.ack_wait = Duration::from_secs(1)),
        ("no bodies", |c| c.headers_only = true),
        ("small pulls", |c| c.max_batch = 1),
    ];
    for (what, change) in alterations {
        alter(&wire, &name, change).await;
        copy.wait(&owner.put(what, json!("while altered")).await).await;
        eventually(&format!("{what}: it is as it must be"), || async {
            let now = wire.stream().consumer_info(&name).await.ok()?.config;
            (now == needed).then_some(())
        })
        .await;
        copy.wait(&owner.put(what, json!("after it")).await).await;
    }
    let mended = copy.metric("nudge_consumer_mended_total").await;
    assert!(mended >= alterations.len() as u64, "{mended}");
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_made_anew_by_others_skips_nothing() {
    let (nats, owner, wire, mut copy, name) = followed(|_| ()).await;
    let needed = found(&wire, &name).await;
    let made: [(&str, Change); 4] = [
        ("new ones only", |c| c.deliver_policy = DeliverPolicy::New),
        ("from far ahead", |c| {
            c.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: 1_000_000 };
        }),
        ("no acknowledgements", |c| c.ack_policy = AckPolicy::None),
        ("acknowledgements of all before", |c| c.ack_policy = AckPolicy::All),
    ];
    for stopped in [false, true] {
        for (what, make) in made {
            let id = format!("{what} {stopped}");
            if stopped {
                let model = copy.stop().await;
                owner.put(&id, json!("before")).await;
                make_anew(&wire, &name, make).await;
                owner.put(&format!("{id}, after"), json!("after")).await;
                copy = model.start(&nats.broker("copies").await, &owner).await;
            } else {
                make_anew(&wire, &name, make).await;
                owner.put(&id, json!("after")).await;
            }
            copy.converged(&owner).await;
            let as_needed = || async {
                let now = wire.stream().consumer_info(&name).await.ok()?.config;
                (now == needed).then_some(())
            };
            eventually(&format!("{id}: it is as it must be"), as_needed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_somebody_keeps_altering_is_named_and_not_fought_over() {
    let (_nats, owner, wire, copy, name) =
        followed(|model| model.settings.mend_interval = Duration::from_secs(3_600)).await;
    alter(&wire, &name, |c| c.max_ack_pending = 1).await;
    eventually("it is named", || async {
        let error = copy.status().await["last_error"].as_str()?.to_owned();
        error.contains("max_ack_pending is 1, not 5000").then_some(())
    })
    .await;
    for n in 0..20 {
        owner.put(&format!("thing-{n}"), json!(n)).await;
    }
    copy.converged(&owner).await;
    assert_eq!(found(&wire, &name).await.max_ack_pending, 1);
    assert_eq!(copy.status().await["connected"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_operators_is_left_as_it_is() {
    let (_nats, owner, wire, copy, name) =
        followed(|model| model.settings.mend_interval = Duration::ZERO).await;
    alter(&wire, &name, |c| {
        c.description = Some("looked after by the catalogue team".into());
        c.sample_frequency = 100;
    })
    .await;
    // When other limits are restored, these stay as they are.
    alter(&wire, &name, |c| c.max_ack_pending = 1).await;
    eventually("the limit is altered back", || async {
        (found(&wire, &name).await.max_ack_pending == 5_000).then_some(())
    })
    .await;
    let now = found(&wire, &name).await;
    assert_eq!(now.description.as_deref(), Some("looked after by the catalogue team"));
    assert_eq!(now.sample_frequency, 100);
    copy.wait(&owner.put("42", json!(1)).await).await;
}

/// A server that lost the end of a stream, but kept a consumer that had reached it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_beyond_the_end_of_its_stream_skips_nothing() {
    let mut nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    wire.notify(&owner.put("first", json!(1)).await).await;
    copy.converged(&owner).await;
    nats.stop().await;
    let messages = nats.store_dir().join("jetstream/$G/streams/CHANGES_thing/msgs");
    let kept = tempfile::tempdir().expect("a directory");
    copy_files(&messages, kept.path());
    nats.restart().await;
    for n in 0..20 {
        wire.notify(&owner.put(&format!("thing-{n}"), json!(n)).await).await;
    }
    copy.converged(&owner).await;
    copy.quiet().await;
    nats.stop().await;
    std::fs::remove_dir_all(&messages).expect("they are removed");
    std::fs::create_dir(&messages).expect("a directory");
    copy_files(kept.path(), &messages);
    nats.restart().await;
    let last = wire.last_sequence().await;
    assert!(last < 20, "the stream went back, to {last}");
    wire.notify(&owner.put("fresh", json!(1)).await).await;
    copy.converged(&owner).await;
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    for file in std::fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("it is copied");
    }
}

/// A server that has forgotten which messages it has not delivered: it delivers nothing, and says that nothing is left.
struct Forgetful(Broker);

struct OfForgetful(Arc<dyn Consumer>);

impl Source for Forgetful {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            let consumer = self.0.open(durable).await?;
            Ok(Arc::new(OfForgetful(consumer)) as Arc<dyn Consumer>)
        })
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

impl Consumer for OfForgetful {
    fn opened(&self) -> &ConsumerState {
        self.0.opened()
    }

    fn state(&self) -> Asking<'_, ConsumerState> {
        Box::pin(async { Ok(ConsumerState { pending: 0, ..self.0.state().await? }) })
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async { Ok(stream::pending().boxed()) })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        self.0.again_from(sequence)
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        self.0.fresh()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_withholds_is_read_past_it() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.put("before", json!(1)).await;
    let source = Arc::new(Forgetful(nats.broker("copies").await));
    let copy = ReadModel::new().await.start_from(source, &owner).await;
    copy.converged(&owner).await;
    eventually("it is said", || async {
        let status = copy.status().await;
        let said = status["last_error"].as_str()? == "intake: the broker withholds messages";
        (said && status["connected"] == false && status["broker_connected"] == true).then_some(())
    })
    .await;
    // The next ones arrive as they are published.
    for n in 0..5 {
        copy.wait(&owner.put(&format!("after {n}"), json!(n)).await).await;
    }
    let asked = owner.times_asked("before");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(owner.times_asked("before"), asked, "it is read once");
    assert_eq!(copy.metric("nudge_bypassed_total").await, 6);
}
