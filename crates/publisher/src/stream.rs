//! The stream that holds an entity's notifications, on JetStream.

mod altered;
mod look_up;
mod read;

use async_nats::{
    HeaderMap,
    jetstream::{
        self, Context, ErrorCode,
        context::RequestError,
        message::PublishMessage,
        response::Response,
        stream::{ClusterInfo, Config, DiscardPolicy, Info, RetentionPolicy, State, StorageType},
    },
};
use nudge_protocol::{EntityName, notification::VERSION_HEADER, subject};
use nudge_runtime::{BoxError, Broker};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use tokio::sync::watch;

pub use read::READER;

use altered::{Members, PER_SUBJECT, compare, told, untouchable};

use crate::sink::{Asking, Looked, Message, Sink, Stored, StreamInfo};

/// Largest notification, including headers, in bytes. A body has at most about 250 bytes.
pub const MAX_MESSAGE_BYTES: i32 = 4_096;
/// The stream's size limit, in bytes: about two and a half million entities. NATS reserves it, so a disk
/// must have that much space. Beyond it, publishes fail and rows stay
/// pending, rather than old notifications being dropped.
pub const MAX_STREAM_BYTES: i64 = 1024 * 1024 * 1024;

/// The configuration of an entity's stream.
///
/// One message per subject: a new notification replaces the previous one, so storage is
/// bounded by entities and not by edits. No maximum age: a subscriber that was away for a month
/// replays each changed entity once. The duplicate window is not used: notifications carry no
/// message ID, because duplicates are harmless here and deduplication can swallow a republish.
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
        max_consumers: -1,
        max_bytes: MAX_STREAM_BYTES,
        max_message_size: MAX_MESSAGE_BYTES,
        // A full stream must refuse new messages, not silently lose old ones.
        discard: DiscardPolicy::New,
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

impl Sink for Broker {
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, StreamInfo> {
        Box::pin(async move {
            let found = ensure(&self.jetstream, entity).await;
            let Found { info, config } = found.map_err(|error| self.explain(error))?;
            Ok(StreamInfo {
                created: info.created.to_string(),
                last_seq: info.state.last_sequence,
                subjects: subjects(&info.state),
                // The server that answers is the one that keeps the stream.
                server: is_kept_alone(&info).then(|| self.client.server_info().server_id),
                altered: told(&compare(entity, &config)),
                doubled: is_doubled(&info),
            })
        })
    }

    fn mend<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Option<String>> {
        Box::pin(async move {
            let refused = mend(&self.jetstream, entity).await;
            refused.map_err(|error| self.explain(error))
        })
    }

    fn publish<'a>(&'a self, entity: &'a EntityName, message: Message) -> Asking<'a, u64> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(VERSION_HEADER, message.version.as_str());
            message.headers.into_iter().for_each(|(name, value)| headers.insert(name, value));
            let publish = PublishMessage::build().payload(message.body.into()).headers(headers);
            let ack = async { self.jetstream.send_publish(message.subject, publish).await?.await };
            let ack = ack.await.map_err(|error| self.explain(error))?;
            // An acknowledgement counts only for our stream, and `duplicate` proves nothing about
            // what it holds.
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
            let read = read::read(&self.jetstream, entity, sequence + 1, limit).await;
            read.map_err(|error| self.explain(error))
        })
    }

    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>> {
        Box::pin(async move {
            let looked = look_up::look_up(self, entity, subjects).await;
            looked.map_err(|error| self.explain(error))
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        Broker::connections(self)
    }

    fn is_connected(&self) -> bool {
        Broker::is_connected(self)
    }
}

/// How many entities the stream holds; none if it does not exist.
pub async fn told_of(broker: &Broker, entity: &EntityName) -> Result<u64, BoxError> {
    let found = find(&broker.jetstream, entity).await.map_err(|error| broker.explain(error))?;
    Ok(found.map_or(0, |found| subjects(&found.info.state)))
}

/// The stream as the broker describes it.
struct Found {
    info: Info,
    /// Its whole configuration, including settings that this release does not know.
    config: Members,
}

/// The stream, unless it is missing.
async fn find(jetstream: &Context, entity: &EntityName) -> Result<Option<Found>, BoxError> {
    let subject = format!("STREAM.INFO.{}", subject::stream_name(entity));
    match jetstream.request(subject, &()).await? {
        Response::Ok(told) => found(told).map(Some),
        Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Response::Err { error } => Err(error.into()),
    }
}

fn found(mut told: Value) -> Result<Found, BoxError> {
    let info = Info::deserialize(&told)?;
    match told.get_mut("config").map(Value::take) {
        Some(Value::Object(config)) => Ok(Found { info, config }),
        _ => Err("the broker's answer lacks the stream's configuration".into()),
    }
}

/// Describes the stream; creates it if it is missing.
async fn ensure(jetstream: &Context, entity: &EntityName) -> Result<Found, BoxError> {
    if let Some(found) = find(jetstream, entity).await? {
        return Ok(found);
    }
    tracing::info!(stream = %subject::stream_name(entity), "creating the stream");
    let created = jetstream.create_stream(config(entity)).await;
    // Another relay may have been first. If not, report why it could not be created.
    match (find(jetstream, entity).await, created) {
        (Ok(Some(found)), _) => Ok(found),
        (_, Err(error)) => Err(error.into()),
        (Err(error), Ok(_)) => Err(error),
        (Ok(None), Ok(_)) => Err("the stream was deleted right after its creation".into()),
    }
}

/// Whether a single server outside of any cluster keeps the stream.
fn is_kept_alone(info: &Info) -> bool {
    let alone = |cluster: &ClusterInfo| cluster.name.is_none() && cluster.replicas.is_empty();
    info.cluster.as_ref().is_none_or(alone)
}

/// For how many subjects the stream holds a message. A server that does not say holds one message of each.
fn subjects(state: &State) -> u64 {
    if state.subjects_count > 0 { state.subjects_count } else { state.messages }
}

/// Whether the stream holds more messages than subjects, which a server may do after a crash.
fn is_doubled(info: &Info) -> bool {
    is_kept_alone(info) && info.state.messages > subjects(&info.state)
}

/// Restores the stream's required configuration, and one message for each subject. Returns what cannot be restored, and
/// why.
async fn mend(jetstream: &Context, entity: &EntityName) -> Result<Option<String>, BoxError> {
    let Some(Found { mut config, info }) = find(jetstream, entity).await? else { return Ok(None) };
    if let Some(why) = untouchable(&config) {
        return Ok(Some(why.to_owned()));
    }
    if compare(entity, &config).is_empty() && is_doubled(&info) {
        // The server looks through its subjects when their limit is lowered.
        config.insert(PER_SUBJECT.to_owned(), 2.into());
        if let Err(error) = update(jetstream, entity, &config).await? {
            return Ok(Some(error.to_string()));
        }
    }
    let altered = compare(entity, &config);
    let all = altered.iter().fold(config.clone(), |config, member| member.mended(config));
    if update(jetstream, entity, &all).await?.is_ok() {
        return Ok(None);
    }
    // If one setting is refused, the others are altered all the same.
    let mut refused = Vec::new();
    for member in &altered {
        let mended = member.mended(config.clone());
        match update(jetstream, entity, &mended).await? {
            Ok(()) => config = mended,
            Err(error) => refused.push(format!("{member}: {error}")),
        }
    }
    Ok((!refused.is_empty()).then(|| refused.join(", ")))
}

/// Alters the stream. Returns the broker's refusal, if it refuses.
async fn update(
    jetstream: &Context,
    entity: &EntityName,
    config: &Members,
) -> Result<Result<(), jetstream::Error>, RequestError> {
    let subject = format!("STREAM.UPDATE.{}", subject::stream_name(entity));
    let answer: Response<IgnoredAny> = jetstream.request(subject, config).await?;
    Ok(match answer {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(error),
    })
}
