//! The loop that people write in ten minutes: one message, one GET, one upsert, one acknowledgement.

use std::{sync::Arc, time::Instant};

use async_nats::jetstream::{Message, consumer::AckPolicy};
use futures_util::{StreamExt, TryStreamExt};
use nudge_protocol::{EntityName, subject};
use nudge_runtime::BoxError;
use reqwest::Client;

use super::{Item, ReadModel, consumer, messages};
use crate::{
    thing::ENTITY,
    world::{Owner, World},
};

/// How many things a second it applies, with so many messages in progress at a time.
pub(crate) async fn drain(
    world: &World,
    owner: &Owner,
    count: usize,
    at_a_time: usize,
) -> Result<f64, BoxError> {
    let model = Arc::new(ReadModel::new(world).await?);
    let stream = world.stream().await?;
    let consumer = consumer(&stream, AckPolicy::Explicit).await?;
    let http = Client::new();
    let began = Instant::now();
    messages(&consumer)
        .await?
        .take(count)
        .map_err(BoxError::from)
        .try_for_each_concurrent(at_a_time, |message| handle(&http, owner, &model, message))
        .await?;
    let pace = count as f64 / began.elapsed().as_secs_f64();
    // It would go on to take messages.
    stream.delete_consumer("peer").await?;
    Ok(pace)
}

async fn handle(
    http: &Client,
    owner: &Owner,
    model: &ReadModel,
    message: Message,
) -> Result<(), BoxError> {
    let id = subject::decode_subject(&EntityName::new(ENTITY)?, &message.subject)?;
    let url = format!("{}/sync/v1/{ENTITY}/{}", owner.url, subject::encode_token(&id));
    let item: Item = http.get(url).send().await?.error_for_status()?.json().await?;
    model.apply(&[item]).await?;
    message.ack().await
}
