//! Events that carry the whole state: nobody calls back.

use std::time::Instant;

use async_nats::jetstream::{AckKind, consumer::AckPolicy};
use futures_util::StreamExt;
use nudge_runtime::BoxError;
use serde_json::json;

use super::{BATCH, Item, ReadModel, consumer, messages, since};
use crate::{
    thing::{Thing, id},
    world::World,
};

const STREAM: &str = "FAT";
/// Publishes whose acknowledgements are awaited together.
const AT_A_TIME: usize = 1_000;

/// A stream of events with one message for each thing, as an owner's stream has.
pub(crate) async fn fill(world: &World, count: usize) -> Result<(), BoxError> {
    let jetstream = world.jetstream().await;
    World::peers_stream(&jetstream, STREAM).await?;
    for first in (0..count).step_by(AT_A_TIME) {
        let mut acknowledged = Vec::new();
        for number in first..count.min(first + AT_A_TIME) {
            let event = json!({"id": id(number), "version": number, "state": Thing::new(0)});
            let subject = format!("{STREAM}.{}", id(number));
            acknowledged.push(jetstream.publish(subject, event.to_string().into()).await?);
        }
        for acknowledged in acknowledged {
            acknowledged.await?;
        }
    }
    Ok(())
}

/// How many things a second a subscriber applies.
pub(crate) async fn drain(world: &World, count: usize) -> Result<f64, BoxError> {
    let model = ReadModel::new(world).await?;
    let stream = world.jetstream().await.get_stream(STREAM).await?;
    let consumer = consumer(&stream, AckPolicy::All).await?;
    let mut first = None;
    let mut batches = messages(&consumer).await?.take(count).ready_chunks(BATCH);
    // Otherwise the runtime interrupts a task after 128 messages, and no batch is larger.
    tokio::task::unconstrained(async {
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
            let items =
                batch.iter().map(|message| serde_json::from_slice::<Item>(&message.payload));
            model.apply(&items.collect::<Result<Vec<_>, _>>()?).await?;
            if let Some(last) = batch.last() {
                last.ack_with(AckKind::Ack).await?;
            }
            first.get_or_insert_with(|| (batch.len(), Instant::now()));
        }
        Ok::<_, BoxError>(())
    })
    .await?;
    since(first, count)
}
