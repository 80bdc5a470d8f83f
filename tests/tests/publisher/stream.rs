//! The stream lives at the broker, where others can change it: an operator creates it before its owner does, alters it
//! or seals it; a tool has a configuration of its own. Notifications stay in it all the same, or the metrics say why
//! not.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    Context,
    stream::{
        Compression, Config, ConsumerLimits, DiscardPolicy, RetentionPolicy, Source,
        SubjectTransform,
    },
};
use futures_util::{TryStreamExt, future::join_all};
use nudge_publisher::stream::config;
use nudge_tests::{Nats, Owner, Wire, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::publisher::support::{
    Interrupted, NO_RIGHT_TO_ALTER, STREAM, Step, messages, owner_of, published, rows, shown,
    stream, thing,
};

/// More than fit into the streams that are too small in these tests.
const MANY: usize = 30;

type Change = fn(&mut Config);

/// Settings that drop, refuse or change what is published, or keep subscribers out, and that can be restored.
const ALTERATIONS: [(&str, Change); 14] = [
    ("few messages", |c| (c.max_messages, c.discard) = (20, DiscardPolicy::Old)),
    ("few messages, and no more", |c| c.max_messages = 20),
    ("old messages go", |c| c.discard = DiscardPolicy::Old),
    ("a short life", |c| {
        (c.max_age, c.duplicate_window) = (Duration::from_secs(1), Duration::from_secs(1));
    }),
    ("several for each", |c| c.max_messages_per_subject = 5),
    ("any number for each", |c| c.max_messages_per_subject = -1),
    ("the first for each", |c| c.discard_new_per_subject = true),
    ("small messages", |c| c.max_message_size = 10),
    ("no acknowledgements", |c| c.no_ack = true),
    ("until they are read", |c| c.retention = RetentionPolicy::Interest),
    ("no direct look", |c| c.allow_direct = false),
    ("modest subscribers", |c| {
        let inactive_threshold = Duration::from_secs(3_600);
        c.consumer_limits = Some(ConsumerLimits { inactive_threshold, max_ack_pending: 10 });
    }),
    ("more subjects", |c| c.subjects.push(format!("others.{}.*", c.name))),
    ("under another name", |c| {
        let source = c.subjects[0].clone();
        let destination = format!("others.{}.{{{{wildcard(1)}}}}", c.name);
        c.subject_transform = Some(SubjectTransform { source, destination });
    }),
];

/// Settings that are only possible when a stream is created.
const MADE: [(&str, Change); 3] = [
    ("messages may be deleted", |c| c.deny_delete = false),
    ("all may be purged, by anybody who publishes", |c| {
        (c.deny_purge, c.allow_rollup) = (false, true);
    }),
    ("other subjects", |c| c.subjects = vec![format!("others.{}.*", c.name)]),
];

/// An owner of things under another name, so that each has its own stream.
struct Other {
    owner: Owner,
    jetstream: Context,
    needed: Config,
}

impl Other {
    async fn new(nats: &Nats, number: usize) -> Self {
        let owner = Owner::start_silent_of(&format!("thing-{number}")).await;
        let needed = config(owner.publisher.entity());
        Self { owner, jetstream: nats.jetstream().await, needed }
    }

    fn altered(&self, change: Change) -> Config {
        let mut config = self.needed.clone();
        change(&mut config);
        config
    }

    async fn put(&self, what: &str) {
        let ids: Vec<_> = (0..MANY).map(|n| format!("{what}-{n}")).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({}))).collect();
        self.owner.put_all(&things).await;
    }

    /// Waits until the stream is as needed, and holds one message for each of this many things.
    async fn holds(&self, what: &str, count: usize) {
        let filter = &self.needed.subjects[0];
        eventually(&format!("{what}: the stream is as needed and full"), || async {
            let found = self.jetstream.get_stream(&self.needed.name).await.ok()?;
            let subjects = found.info_with_subjects(filter).await.ok()?;
            let now = as_told(subjects.info.config.clone());
            let of_each: Vec<(String, usize)> = subjects.try_collect().await.ok()?;
            let one_each = of_each.iter().all(|(_, messages)| *messages == 1);
            (now == self.needed && one_each && of_each.len() == count).then_some(())
        })
        .await;
        eventually(&format!("{what}: nothing is named any more"), || async {
            let health = self.owner.publisher.health();
            (!health.altered && health.connected && health.pending == 0).then_some(())
        })
        .await;
    }
}

/// What a broker reports for settings that [`config`] leaves open.
fn as_told(mut config: Config) -> Config {
    let ours = nudge_publisher::stream::config(&thing());
    config.duplicate_window = ours.duplicate_window;
    config.metadata.clear();
    (config.compression, config.consumer_limits) = (ours.compression, none(config.consumer_limits));
    (config.persist_mode, config.placement) = (ours.persist_mode, ours.placement);
    config
}

fn none(limits: Option<ConsumerLimits>) -> Option<ConsumerLimits> {
    limits.filter(|limits| limits.max_ack_pending > 0 || !limits.inactive_threshold.is_zero())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_others_made_otherwise_is_made_as_needed_and_loses_nothing() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let made = ALTERATIONS.iter().chain(&MADE).enumerate();
    join_all(made.map(|(number, (what, change))| {
        let (nats, broker) = (&nats, &broker);
        async move {
            let other = Other::new(nats, number).await;
            other.jetstream.create_stream(other.altered(*change)).await.expect(what);
            other.put("before").await;
            other.owner.second_relay(broker);
            other.holds(what, MANY).await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_others_alter_under_the_relay_is_altered_back_and_loses_nothing() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    join_all(ALTERATIONS.iter().enumerate().map(|(number, (what, change))| {
        let (nats, broker) = (&nats, &broker);
        async move {
            let other = Other::new(nats, number).await;
            other.owner.second_relay(broker);
            other.put("before").await;
            other.holds(what, MANY).await;
            other.jetstream.update_stream(other.altered(*change)).await.expect(what);
            other.put("after").await;
            other.holds(what, 2 * MANY).await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_operators_stays_as_it_is_when_the_rest_is_altered_back() {
    let nats = Nats::start().await;
    let mut made = config(&thing());
    made.description = Some("looked after by the catalogue team".into());
    made.max_bytes *= 2;
    made.max_message_size = 100_000;
    made.compression = Some(Compression::S2);
    made.duplicate_window = Duration::from_secs(60);
    made.metadata.insert("team".into(), "catalogue".into());
    made.max_messages = 20;
    let jetstream = nats.jetstream().await;
    jetstream.create_stream(made.clone()).await.expect("it is made");
    let _owner = owner_of(&nats.broker("things").await, &["1"]).await;
    let mut now = stream(&nats).await.get_info().await.unwrap().config;
    assert_eq!(now.metadata.get("team").map(String::as_str), Some("catalogue"));
    now.metadata = made.metadata.clone();
    now.consumer_limits = none(now.consumer_limits);
    made.max_messages = -1;
    assert_eq!(now, made);
}

/// Waits until the publisher reports that the stream is not as needed.
async fn named(owner: &Owner) {
    eventually("it is named", || async { owner.publisher.health().altered.then_some(()) }).await;
}

async fn refused(owner: &Owner) {
    eventually("it is told from a broker that is away", || async {
        let health = owner.publisher.health();
        (!health.connected && health.broker_connected && health.pending == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_stream_is_named_and_stays_sealed() {
    let nats = Nats::start().await;
    let owner = owner_of(&nats.broker("things").await, &["1"]).await;
    let mut sealed = stream(&nats).await.get_info().await.unwrap().config;
    sealed.sealed = true;
    nats.jetstream().await.update_stream(sealed).await.expect("it is sealed");
    named(&owner).await;
    owner.put("2", json!({})).await;
    refused(&owner).await;
    assert!(stream(&nats).await.get_info().await.unwrap().config.sealed);
    // The way out: it is recreated and filled.
    nats.jetstream().await.delete_stream(STREAM).await.expect("it is removed");
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 2);
    eventually("nothing is named", || async { (!owner.publisher.health().altered).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_named_and_stays_one() {
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    let mut mirrored = config(&thing());
    (mirrored.name, mirrored.subjects) = ("ELSEWHERE".into(), vec!["elsewhere.*".into()]);
    jetstream.create_stream(mirrored).await.expect("what is mirrored");
    let mut mirror = config(&thing());
    mirror.subjects.clear();
    mirror.mirror = Some(Source { name: "ELSEWHERE".into(), ..Source::default() });
    jetstream.create_stream(mirror).await.expect("a mirror");
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.put("1", json!({})).await;
    named(&owner).await;
    refused(&owner).await;
    assert!(stream(&nats).await.get_info().await.unwrap().config.mirror.is_some());
}

/// Settings that can be restored are, even if another one cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_altered_back_keeps_nothing_else_as_it_is() {
    let nats = Nats::start().await;
    let mut made = config(&thing());
    made.retention = RetentionPolicy::WorkQueue;
    (made.max_messages, made.discard) = (5, DiscardPolicy::Old);
    made.subjects.push("others.*".into());
    nats.jetstream().await.create_stream(made).await.expect("it is made");
    let owner = owner_of(&nats.broker("things").await, &["1", "2", "3", "4", "5", "6"]).await;
    named(&owner).await;
    let now = stream(&nats).await.get_info().await.unwrap();
    assert_eq!(now.state.messages, 6);
    let now = now.config;
    assert_eq!((now.max_messages, now.discard), (-1, DiscardPolicy::New));
    assert_eq!(now.subjects, config(&thing()).subjects);
    assert_eq!(now.retention, RetentionPolicy::WorkQueue);
}

/// A new connection cuts off what the relay is doing. The first one may come while it restores the stream: it then
/// publishes into one that drops its messages, unless it restores it first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restoring_that_a_new_connection_cuts_off_is_begun_again_before_anything_is_published() {
    let nats = Nats::start().await;
    let mut made = config(&thing());
    (made.max_messages, made.discard) = (5, DiscardPolicy::Old);
    nats.jetstream().await.create_stream(made).await.expect("it is made");
    let owner = Owner::start_silent().await;
    let sink = Arc::new(Interrupted::new(nats.broker("things").await));
    let connections = sink.connections();
    sink.before(Step::Mend, async move {
        connections.send_modify(|count| *count += 1);
        std::future::pending().await
    });
    let ids: Vec<_> = (0..MANY).map(|n| n.to_string()).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({}))).collect();
    owner.put_all(&things).await;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    owner.publisher.spawn_relay_to(sink.clone(), stop);
    published(&owner.db).await;
    assert!(sink.is_done());
    assert_eq!(stream(&nats).await.get_info().await.unwrap().state.messages, MANY as u64);
}

/// Such a stream takes no consumer that only reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_removes_what_is_acknowledged_is_read_by_the_next_relay() {
    let nats = Nats::start().await;
    let mut made = config(&thing());
    made.retention = RetentionPolicy::WorkQueue;
    nats.jetstream().await.create_stream(made).await.expect("it is made");
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    owner.put_all(&[("1", json!({})), ("2", json!({}))]).await;
    let relay = owner.second_relay(&nats.broker("things").await);
    published(&owner.db).await;
    relay.abort();
    // While none runs, somebody else publishes what this owner does not know.
    for id in ["5", "6", "7"] {
        wire.announce(id, Some("1767225600000000")).await;
    }
    owner.put("3", json!({})).await;
    owner.second_relay(&nats.broker("things").await);
    published(&owner.db).await;
    eventually("what stands there is read", || async {
        let rows = rows(&owner.db).await;
        ["5", "6", "7"].iter().all(|id| rows.contains_key(*id)).then_some(())
    })
    .await;
}

/// The stream is full, which is the operator's choice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_loses_nothing_and_takes_the_rest_once_there_is_room() {
    let nats = Nats::start().await;
    let mut small = config(&thing());
    small.max_bytes = 1_000;
    let jetstream = nats.jetstream().await;
    jetstream.create_stream(small.clone()).await.expect("it is made");
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.put("1", json!({})).await;
    published(&owner.db).await;
    for n in 0..MANY {
        owner.put(&format!("thing-{n}"), json!({})).await;
    }
    eventually("it is told from a broker that is away", || async {
        let health = owner.publisher.health();
        (!health.connected && health.broker_connected && health.pending > 0).then_some(())
    })
    .await;
    let kept = messages(&nats).await;
    assert!(kept.iter().any(|message| message.id() == "1"), "what stood there stays");
    assert!(!owner.publisher.health().altered, "the size is the operator's");
    small.max_bytes = 1_000_000;
    jetstream.update_stream(small).await.expect("there is room");
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), MANY + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_alter_the_stream_what_it_drops_is_named_and_fresh_changes_go_on() {
    let nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
    let mut small = config(&thing());
    (small.max_messages, small.discard) = (20, DiscardPolicy::Old);
    nats.jetstream().await.create_stream(small).await.expect("it is made");
    let owner = Owner::start_silent().await;
    let ids: Vec<_> = (0..MANY).map(|n| format!("thing-{n}")).collect();
    owner.put_all(&ids.iter().map(|id| (id.as_str(), json!({}))).collect::<Vec<_>>()).await;
    owner.second_relay(&nats.broker("things").await);
    named(&owner).await;
    // Fresh changes continue.
    owner.put("fresh", json!({})).await;
    published(&owner.db).await;
    assert!(messages(&nats).await.iter().any(|message| message.id() == "fresh"));
}
