//! The broker, the relay or the permission to publish is away for a while.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nudge_publisher::Publisher;
use nudge_tests::{Nats, Owner, Way, broker_by, eventually, line_to};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::util::SubscriberInitExt;

use crate::publisher::support::{Relay, messages, owner_of, published, row, shown, thing};

#[tokio::test]
async fn what_was_committed_before_a_crash_is_published_by_the_next_start() {
    let nats = Nats::start().await;
    // It died between commit and publish: its relay never ran.
    let owner = Owner::start_silent().await;
    owner.put_all(&[("1", json!({})), ("2", json!({}))]).await;
    owner.delete("2").await;
    let opened = Publisher::open(&owner.db, thing()).await.unwrap();
    assert_eq!(opened.health().pending, 2, "it is known before the broker is reached");
    let _relay = Relay::start(&owner.db, &nats.broker("things").await).await;
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 2);
}

#[tokio::test]
async fn while_nats_is_down_writes_go_on_and_all_is_published_once_it_starts() {
    let mut nats = Nats::start().await;
    let broker = nats.broker("things").await;
    nats.kill();
    let owner = Owner::start(&broker).await;
    for n in 0..30 {
        owner.put(&n.to_string(), json!({})).await;
    }
    owner.delete("0").await;
    assert!(!owner.publisher.health().connected);
    assert_eq!(row(&owner.db, "7").await.published_version, 0);
    nats.restart().await;
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_in_the_middle_of_a_stream_of_edits_loses_none_of_them() {
    let mut nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let edit = async |n: usize| {
        let id = (n % 40).to_string();
        owner.put(&id, json!({ "n": n })).await;
        if n.is_multiple_of(7) {
            owner.delete(&id).await;
        }
    };
    let killed = AtomicBool::new(false);
    let edits = async {
        for n in (0..).take_while(|_| !killed.load(Ordering::Relaxed)) {
            edit(n).await;
        }
    };
    let kill = async {
        eventually("some edits are published", || async {
            (owner.publisher.health().published >= 50).then_some(())
        })
        .await;
        nats.kill();
        killed.store(true, Ordering::Relaxed);
    };
    tokio::join!(edits, kill);
    for n in 0..40 {
        edit(n).await;
    }
    nats.restart().await;
    for n in 20..60 {
        edit(n).await;
    }
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 40);
}

#[tokio::test]
async fn health_and_metrics_tell_how_the_relay_is_doing() {
    let mut nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let mut registry = Registry::default();
    owner.publisher.register_metrics(&mut registry);
    let metric = |name: &str| {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = format!("nudge_relay_{name}{{entity=\"thing\"}} ");
        let value = text.lines().find_map(|text| text.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {line} in {text}")).parse::<u64>().unwrap()
    };
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    owner.put_all(&[("1", json!({})), ("2", json!({}))]).await;
    owner.publisher.spawn_relay(&nats.broker("things").await, stop);
    let healthy = |published| {
        let publisher = &owner.publisher;
        eventually("the relay is healthy", move || async move {
            let health = publisher.health();
            let done = health.connected && health.pending == 0 && health.published == published;
            done.then_some(())
        })
    };
    healthy(2).await;
    assert_eq!((metric("connected"), metric("pending"), metric("published_total")), (1, 0, 2));
    assert_eq!(metric("errors_total"), 0);
    assert_eq!(metric("repairs_total"), 0, "a first start repairs nothing");

    nats.kill();
    owner.put("2", json!({})).await;
    eventually("the relay tries", || async {
        (owner.publisher.health().pending == 1).then_some(())
    })
    .await;
    // It counts these, too, although it cannot even try to publish them.
    owner.put_all(&[("3", json!({})), ("4", json!({}))]).await;
    eventually("the relay notices", || async {
        let health = owner.publisher.health();
        (!health.connected && health.pending == 3).then_some(())
    })
    .await;
    assert_eq!((metric("connected"), metric("pending"), metric("published_total")), (0, 3, 2));
    assert!(metric("errors_total") >= 1);
    nats.restart().await;
    published(&owner.db).await;
    eventually("the relay is healthy again", || async {
        (metric("connected") == 1 && metric("pending") == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_relay_ends_when_told_even_while_nats_is_down() {
    let mut nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    nats.kill();
    let stop = CancellationToken::new();
    let relay = owner.publisher.spawn_relay(&broker, stop.clone());
    owner.put("42", json!({})).await;
    stop.cancel();
    eventually("the relay ends", || async { relay.is_finished().then_some(()) }).await;
}

/// A relay that may publish to these subjects only warns that `subject` is denied, in the broker's own words, and
/// continues automatically once nothing is denied.
async fn warns_of_a_denied(subject: &str, permitted: &str) {
    let said = tempfile::NamedTempFile::new().expect("a temporary file");
    let writer = Arc::new(said.reopen().expect("the file is there"));
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer);
    // For this thread, on which the relay also runs.
    let _log = log.finish().set_default();
    let config = format!(
        "authorization {{ users = [ {{ user: owner, password: o, permissions: {{ \
         publish: [{permitted}], subscribe: \"_INBOX_things.>\" }} }} ] }}\nno_auth_user: owner"
    );
    let mut nats = Nats::start_with(Some(&config)).await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    owner.put("42", json!({})).await;
    let warning = eventually("the relay warns", || async {
        let said = std::fs::read_to_string(said.path()).expect("a text");
        said.lines().find(|line| line.contains("relay: failed; retrying")).map(str::to_owned)
    })
    .await;
    assert!(warning.contains("Permissions Violation"), "{warning}");
    assert!(warning.contains(subject), "{warning}");
    // It may have warned before the write; its count is as recent as its last attempt.
    eventually("the relay counts what it cannot publish", || async {
        let health = owner.publisher.health();
        (!health.connected && health.pending == 1).then_some(())
    })
    .await;
    nats.restart_with("").await;
    shown(&nats, &owner.db).await;
    assert_eq!(broker.last_error(), None, "what was denied on another connection is past");
}

#[tokio::test]
async fn without_permission_to_publish_the_relay_says_so_and_goes_on_when_it_is_permitted() {
    let subject = format!("changes.{}.42", thing());
    warns_of_a_denied(&subject, "\"$JS.API.>\", \"changes.else.>\"").await;
}

#[tokio::test]
async fn without_permission_to_look_at_its_stream_the_relay_says_so_and_goes_on_when_it_is_permitted()
 {
    warns_of_a_denied("$JS.API.STREAM", "\"changes.>\"").await;
}

#[tokio::test]
async fn a_write_waits_for_no_relay_that_waits_for_its_acknowledgements() {
    let nats = Nats::start().await;
    let line = line_to(nats.port()).await;
    let broker = broker_by(&line, "things").await;
    let owner = owner_of(&broker, &["41"]).await;
    line.hold(Way::Back);
    let version = owner.put("42", json!({})).await.version;
    eventually("the relay publishes", || async {
        line.said(Way::There).contains(&version.to_string()).then_some(())
    })
    .await;
    owner.put("42", json!({})).await;
    // Had the relay held a lock, the write would have waited until it gave up.
    assert!(owner.publisher.health().connected, "the relay waits no more");
    assert_eq!(row(&owner.db, "42").await.published_version, 0);
    line.release();
    shown(&nats, &owner.db).await;
}
