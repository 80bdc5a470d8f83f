//! During a backlog, fresh changes need not wait, and memory stays within its limit.

use std::time::Duration;

use nudge_subscriber_kit::Settings;
use nudge_tests::{Copy, Fault, Nats, Owner, QUIET, Wire, copy::quick, eventually};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// One callback at a time, of few keys, so that a backlog lasts.
fn slow() -> Settings {
    let mut settings = quick();
    (settings.max_batches_in_flight, settings.max_batch_keys) = (1, 10);
    (settings.max_ack_pending, settings.max_backlog_messages) = (100, 100);
    settings
}

async fn backlog(owner: &Owner, wire: &Wire, count: usize) {
    let ids: Vec<_> = (0..count).map(|n| format!("thing-{n:05}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(0))).collect();
    owner.put_all(&things).await;
    eventually("all is published", || async {
        (wire.last_sequence().await >= count as u64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thing_rewritten_again_and_again_is_not_kept_behind_the_backlog() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    backlog(&owner, &wire, 2_000).await;
    owner.misbehave(|_| Some(Fault::Delay(Duration::from_millis(100))));
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, slow()).await;
    // Each rewrite moves it to the end of the stream, behind everything else.
    eventually("the busy thing is applied", || async {
        owner.put("busy", json!("busy")).await;
        copy.body("busy").await
    })
    .await;
    let others = copy.applied().iter().position(|(id, _)| id == "busy");
    assert!(others < Some(1_500), "it came after {others:?} others");
    owner.behave();
    copy.converged(&owner).await;
}

/// During a backlog, each fresh change arrives twice. Without one, once is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_the_backlog_is_gone_each_change_comes_once_again() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    backlog(&owner, &wire, 1_000).await;
    let gate = CancellationToken::new();
    let held = gate.clone();
    owner.misbehave(move |_| Some(Fault::Until(held.clone())));
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, slow()).await;
    let received = async || copy.metric("nudge_received_total").await;
    eventually("a change comes past the backlog", || async {
        let before = received().await;
        owner.put("busy", json!(before)).await;
        tokio::time::sleep(QUIET).await;
        // As much as possible is delivered, and nothing is acknowledged.
        (received().await > before).then_some(())
    })
    .await;
    gate.cancel();
    copy.converged(&owner).await;
    copy.quiet().await;
    eventually("a change comes once", || async {
        let before = received().await;
        copy.wait(&owner.put("busy", json!(before)).await).await;
        copy.quiet().await;
        tokio::time::sleep(QUIET).await;
        (received().await == before + 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_owner_hangs_the_queue_stays_within_its_limit() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    backlog(&owner, &wire, 3_000).await;
    let gate = CancellationToken::new();
    let held = gate.clone();
    owner.misbehave(move |_| Some(Fault::Until(held.clone())));
    let mut settings = slow();
    (settings.max_queued_keys, settings.max_ack_pending) = (200, 5_000);
    settings.fetch_timeout = Duration::from_secs(60);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let queued = || async { copy.status().await["queued"].as_u64().expect("a number") };
    eventually("the queue is full", || async { (queued().await >= 200).then_some(()) }).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(queued().await, 200);
    gate.cancel();
    copy.converged(&owner).await;
}

/// Few messages wait, so this is no backlog; but no more are delivered until these are acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_hang_and_are_all_that_may_be_delivered_keep_no_fresh_change_waiting() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let gate = CancellationToken::new();
    let held = gate.clone();
    owner.misbehave(move |ids| {
        ids.iter().any(|id| id.starts_with("slow")).then_some(Fault::Until(held.clone()))
    });
    let mut settings = quick();
    settings.max_ack_pending = 3;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    for n in 0..3 {
        let id = format!("slow-{n}");
        owner.put(&id, json!(0)).await;
        eventually("it is asked for", || async { (owner.times_asked(&id) > 0).then_some(()) })
            .await;
    }
    // Made once, before anybody can have noticed.
    owner.put("fresh", json!(0)).await;
    eventually("a change that is made now is applied", || copy.body("fresh")).await;
    assert_eq!(copy.body("slow-0").await, None);
    gate.cancel();
    copy.converged(&owner).await;
}
