//! What another program takes away for good, with nobody saying so.

use std::sync::Arc;

use async_nats::jetstream::consumer::{FromConsumer, PullConsumer, pull};
use futures_util::StreamExt;
use nudge_tests::ReadModel;
use sqlx::AssertSqlSafe;

use super::*;
use crate::publisher::support::published;

/// Another program uses the subscriber's consumer, and acknowledges what is meant for it. Its position says that
/// everything is handled. (The same happens if a server counts messages as delivered that were not: its issue 8036.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_program_acknowledges_in_a_subscribers_name_arrives_all_the_same() {
    let World { nats, broker, owner, copy } = World::start(THINGS, eager()).await;
    let wire = Wire::open(&nats).await;
    let name = wire.consumer("copies").await;
    copy.handled(&owner).await;
    let model: ReadModel = copy.stop().await;
    owner.put("t001", json!({"name": "changed"})).await;
    owner.put("t999", json!({"name": "new"})).await;
    owner.delete("t002").await;
    let consumer: PullConsumer = wire.stream().get_consumer(&name).await.expect("it pulls");
    let mut messages = consumer.messages().await.expect("messages").take(3);
    while let Some(message) = messages.next().await {
        message.expect("a message").double_ack().await.expect("it is acknowledged");
    }
    drop(messages);
    let copy = model.start(&broker, &owner).await;
    equal(&copy, &owner).await;
    copy.stop().await;
}

/// The owner comes back from a backup and takes edits before its relay runs: some of what was lost, some of what was kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_put_back_and_edited_is_equalled_in_every_version() {
    let World { nats: _nats, broker, owner, copy } = World::start(50, eager()).await;
    let (owner, backup) = owner.back_up().await;
    owner.second_relay(&broker);
    for (id, name) in [("t001", "lost"), ("t002", "lost"), ("t003", "lost"), ("new", "lost")] {
        owner.put(id, json!({ "name": name })).await;
    }
    owner.delete("t004").await;
    owner.delete("t005").await;
    equal(&copy, &owner).await;
    let lost = versions(&copy.db, "SELECT id, version, deleted FROM nudge_applied").await;
    let owner = owner.put_back(&backup).await;
    owner.put("t001", json!({"name": "edited"})).await;
    owner.put("t005", json!({"name": "edited"})).await;
    owner.delete("t003").await;
    owner.put("t006", json!({"name": "edited"})).await;
    owner.second_relay(&broker);
    equal(&copy, &owner).await;
    let now = versions(&copy.db, "SELECT id, version, deleted FROM nudge_applied").await;
    for id in ["t001", "t002", "t003", "t004", "t005", "new"] {
        assert!(now[id].0 > lost[id].0, "the guard lets nothing older pass: {id}");
    }
    assert_eq!((now["new"].1, now["t002"].1, now["t004"].1), (1, 0, 0));
    copy.stop().await;
}

/// The broker comes back from a backup: it has lost what was published, and delivers what was handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_put_back_loses_nothing_for_good() {
    let World { mut nats, broker: _broker, owner, copy } = World::start(50, eager()).await;
    copy.handled(&owner).await;
    nats.kill();
    let backup = nats.back_up();
    nats.restart().await;
    owner.put("t001", json!({"name": "lost by the broker"})).await;
    owner.delete("t002").await;
    equal(&copy, &owner).await;
    // The newest are not applied yet when it goes back.
    copy.post("pause").await;
    owner.put("t003", json!({"name": "lost by the broker"})).await;
    owner.put("new", json!({"name": "lost by the broker"})).await;
    published(&owner.db).await;
    nats.kill();
    nats.put_back(backup);
    nats.restart().await;
    copy.post("resume").await;
    owner.put("t004", json!({"name": "changed since"})).await;
    equal(&copy, &owner).await;
    copy.stop().await;
}

/// Its subscriber hears of nothing until the consumer is restored, and compares meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filter_on_the_consumer_hides_arrives_and_the_filter_goes() {
    let mut settings = eager();
    settings.resync.overdue_after = Duration::from_secs(1);
    let World { nats, owner, copy, .. } = World::start(THINGS, settings).await;
    let wire = Wire::open(&nats).await;
    let name = wire.consumer("copies").await;
    let consumer: PullConsumer = wire.stream().get_consumer(&name).await.expect("it pulls");
    let needed = consumer.cached_info().config.filter_subject.clone();
    for round in 0..3 {
        let mut config = consumer.cached_info().config.clone();
        config.filter_subject = Wire::subject("nobody");
        let config = FromConsumer::try_from_consumer_config(config).expect("it pulls");
        wire.stream().update_consumer::<pull::Config>(config).await.expect("it is altered");
        owner.put("t001", json!({ "name": round })).await;
        owner.put(&format!("new-{round}"), json!({"name": "new"})).await;
        owner.delete(&format!("t01{round}")).await;
        equal(&copy, &owner).await;
        eventually("the filter is gone", || async {
            let config = wire.stream().consumer_info(&name).await.ok()?.config;
            (config.filter_subject == needed).then_some(())
        })
        .await;
    }
    copy.stop().await;
}

/// What it compares with is old by the time that the owner answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_while_a_busy_owner_keeps_it_waiting_is_no_difference() {
    let mut settings = eager();
    settings.resync.overdue_after = Duration::from_secs(1);
    let World { nats: _nats, owner, copy, .. } = World::start(THINGS, settings).await;
    copy.handled(&owner).await;
    // From then on it compares page after page.
    swept(&copy).await;
    // Callbacks are answered, and comparing has to wait.
    owner.misbehave(|ids| ids.is_empty().then_some(Fault::Status(429, Some(1))));
    eventually("it has to wait", || async {
        let resync = copy.status().await["resync"].take();
        resync["waits_for"].as_str()?.contains("busy").then_some(())
    })
    .await;
    filled(&owner, THINGS).await;
    copy.converged(&owner).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    owner.behave();
    swept(&copy).await;
    for kind in ["missing", "lagging"] {
        assert_eq!(found(&copy, kind).await, 0, "{kind}");
    }
    copy.stop().await;
}

/// Both compare: the copy comes with how far the original was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_read_model_and_its_original_both_find_what_is_wrong_in_them() {
    let World { nats: _nats, broker, owner, copy } = World::start(THINGS, eager()).await;
    let model: ReadModel = copy.stop().await;
    let mut beside = model.clone();
    beside.database = Arc::new(model.database.duplicate().await);
    let (original, copy) =
        (model.start(&broker, &owner).await, beside.start(&broker, &owner).await);
    equal(&original, &owner).await;
    equal(&copy, &owner).await;
    original.handled(&owner).await;
    copy.handled(&owner).await;
    for (subscriber, id) in [(&original, "t001"), (&copy, "t002")] {
        let lost = format!("DELETE FROM nudge_applied WHERE entity = 'thing' AND id = '{id}'");
        subscriber.db.write(sqlx::query(AssertSqlSafe(lost))).await.expect("it is lost");
        let lost = format!("DELETE FROM copy WHERE id = '{id}'");
        subscriber.db.write(sqlx::query(AssertSqlSafe(lost))).await.expect("it is lost");
    }
    owner.put("t003", json!({"name": "changed"})).await;
    equal(&original, &owner).await;
    assert!(found(&original, "missing").await > 0, "no message told of it");
    // The copy is told of everything once more: what it has just applied, it also misses without comparing.
    equal(&copy, &owner).await;
    // What is still in flight for one of them is left out of its digest.
    published(&owner.db).await;
    original.handled(&owner).await;
    copy.handled(&owner).await;
    let (of_one, of_other) = (swept(&original).await, swept(&copy).await);
    assert_eq!(of_one["agreed"], of_other["agreed"]);
    original.stop().await;
    copy.stop().await;
}
