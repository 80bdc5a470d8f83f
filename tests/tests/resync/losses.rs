//! What another program takes away for good, with nobody saying so.

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use nudge_tests::ReadModel;

use super::*;
use crate::publisher::support::published;

/// Another program uses the subscriber's consumer, and acknowledges what is meant for it. Its position says that
/// everything is handled. (The same happens if a server counts messages as delivered that were not: its issue 8036.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_program_acknowledges_in_a_subscribers_name_arrives_all_the_same() {
    let World { nats, broker, owner, copy } = World::start(THINGS, eager()).await;
    let wire = Wire::open(&nats).await;
    let name = wire.consumer("copies").await;
    handled(&copy, &owner).await;
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
    handled(&copy, &owner).await;
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
