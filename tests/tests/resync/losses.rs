//! What another program takes away for good, with nobody saying so.

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use nudge_tests::ReadModel;

use super::*;

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
