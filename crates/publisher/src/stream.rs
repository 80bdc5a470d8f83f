//! The stream that holds an entity's notifications, on JetStream.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::GetStreamErrorKind,
        message::PublishMessage,
        stream::{Config, DiscardPolicy, RetentionPolicy, State, StorageType},
    },
};
use futures_util::StreamExt;
use nudge_protocol::{EntityName, notification::VERSION_HEADER, subject};
use nudge_runtime::{BoxError, Broker};
use tokio::sync::watch;

use crate::sink::{Asking, Message, Sink, Standing, Stored};

/// Largest notification, headers included, in bytes. A body is at most about 250 bytes.
pub const MAX_MESSAGE_BYTES: i32 = 4_096;
/// The stream's fuse, in bytes: about two and a half million entities. NATS reserves it, so a disk
/// must have that much to give. Beyond it publishes fail and rows stay
/// pending, rather than old notifications being dropped.
pub const MAX_STREAM_BYTES: i64 = 1024 * 1024 * 1024;

/// How long the server keeps the consumer with which the stream was read, after the last request.
const READING_INACTIVE: Duration = Duration::from_secs(5);

/// The configuration of an entity's stream.
///
/// One message per subject: a new notification replaces the one that waited there, so storage is
/// bounded by entities and not by edits. No maximum age: a subscriber that was away for a month
/// replays each changed entity once. No duplicate window is relied on: notifications carry no
/// message id, because duplicates are harmless here and deduplication can swallow a republish.
pub fn config(entity: &EntityName) -> Config {
    Config {
        name: subject::stream_name(entity),
        subjects: vec![subject::all_subjects(entity)],
        description: Some(format!("Nudge notifications of {entity}: the newest for each id")),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: 1,
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: MAX_STREAM_BYTES,
        max_message_size: MAX_MESSAGE_BYTES,
        // The fuse refuses new messages. A full stream must not silently lose old ones.
        discard: DiscardPolicy::New,
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

impl Sink for Broker {
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Standing> {
        Box::pin(async move {
            let standing = ensure(&self.jetstream, entity).await;
            let (mut standing, single) = standing.map_err(|error| self.explain(error))?;
            // The one that answers is the one that keeps it.
            standing.server = single.then(|| self.client.server_info().server_id);
            Ok(standing)
        })
    }

    fn publish<'a>(&'a self, entity: &'a EntityName, message: Message) -> Asking<'a, u64> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(VERSION_HEADER, message.version.as_str());
            let publish = PublishMessage::build().payload(message.body.into()).headers(headers);
            let ack = async { self.jetstream.send_publish(message.subject, publish).await?.await };
            let ack = ack.await.map_err(|error| self.explain(error))?;
            // An acknowledgement counts only for our stream, and `duplicate` proves nothing about
            // what stands there.
            if ack.stream != subject::stream_name(entity) || ack.duplicate {
                return Err(format!("unexpected acknowledgement {ack:?}").into());
            }
            Ok(ack.sequence)
        })
    }

    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>> {
        Box::pin(async move {
            let read = read(&self.jetstream, entity, sequence + 1, limit).await;
            read.map_err(|error| self.explain(error))
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        Broker::connections(self)
    }
}

/// How many entities the stream tells of; none when it is not there.
pub async fn told_of(broker: &Broker, entity: &EntityName) -> Result<u64, BoxError> {
    match broker.jetstream.get_stream(subject::stream_name(entity)).await {
        Ok(stream) => Ok(stream.cached_info().state.messages),
        Err(error) if is_missing(&error) => Ok(0),
        Err(error) => Err(broker.explain(error)),
    }
}

/// Reads what stands in the stream from a sequence on, without the bodies.
async fn read(
    jetstream: &Context,
    entity: &EntityName,
    start_sequence: u64,
    limit: usize,
) -> Result<Vec<Stored>, BoxError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        headers_only: true,
        memory_storage: true,
        inactive_threshold: READING_INACTIVE,
        ..pull::Config::default()
    };
    let stream = jetstream.get_stream_no_info(subject::stream_name(entity)).await?;
    let mut consumer = stream.create_consumer(config).await?;
    let mut stored = Vec::new();
    // A fetch may bring fewer than there are.
    let mut pending = consumer.cached_info().num_pending;
    while stored.is_empty() && pending > 0 {
        let mut batch = consumer.fetch().max_messages(limit).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            let sequence = message.info()?.stream_sequence;
            let version = message.headers.as_ref().and_then(|headers| headers.get(VERSION_HEADER));
            let version = version.map(|version| version.as_str().to_owned());
            stored.push(Stored { sequence, subject: message.subject.to_string(), version });
        }
        if stored.is_empty() {
            pending = consumer.info().await?.num_pending;
        }
    }
    Ok(stored)
}

/// Looks at the stream, creating it when it is missing. Answers as well whether one server keeps it alone, outside of
/// any cluster.
async fn ensure(jetstream: &Context, entity: &EntityName) -> Result<(Standing, bool), BoxError> {
    let name = subject::stream_name(entity);
    let info = match jetstream.get_stream(&name).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error) => {
            tracing::info!(stream = %name, "creating the stream");
            match jetstream.create_stream(config(entity)).await {
                Ok(stream) => stream.cached_info().clone(),
                // Another relay may have been first. If not, why it cannot be made is what counts.
                Err(error) => match jetstream.get_stream(&name).await {
                    Ok(stream) => stream.cached_info().clone(),
                    Err(_) => return Err(error.into()),
                },
            }
        }
        Err(error) => return Err(error.into()),
    };
    let State { last_sequence, messages, .. } = info.state;
    let cluster = info.cluster.as_ref();
    let single =
        cluster.is_none_or(|cluster| cluster.name.is_none() && cluster.replicas.is_empty());
    let created = info.created.to_string();
    Ok((Standing { created, last_seq: last_sequence, messages, server: None }, single))
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(e)
        if e.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND)
}
