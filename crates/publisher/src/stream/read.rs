//! Reading the stream from a sequence on.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    datetime::DateTime,
    jetstream::{
        Context,
        consumer::pull,
        stream::{ConsumerCreateStrictErrorKind, RawMessageErrorKind, Stream},
    },
};
use futures_util::StreamExt;
use nudge_protocol::{EntityName, Timestamp, notification::VERSION_HEADER, subject};
use nudge_runtime::{
    BoxError,
    broker::reading::{Reading, ReadingError},
};

use crate::sink::Stored;

/// How long the server keeps the consumer that reads the stream after the last request.
const READING_INACTIVE: Duration = Duration::from_secs(5);

/// What the names of relays' consumers begin with.
pub const READER: &str = "relay";

/// Reads the stream from a sequence on.
pub(super) async fn read(
    jetstream: &Context,
    entity: &EntityName,
    start_sequence: u64,
    limit: usize,
) -> Result<Vec<Stored>, BoxError> {
    let config = pull::Config {
        headers_only: true,
        memory_storage: true,
        inactive_threshold: READING_INACTIVE,
        ..pull::Config::default()
    };
    let name = subject::stream_name(entity);
    let mut reading = match Reading::begin(jetstream, &name, READER, start_sequence, config).await {
        // A stream that removes what is acknowledged takes no consumer beside the one that acknowledges.
        Err(ReadingError::Refused(refused))
            if matches!(refused.kind(), ConsumerCreateStrictErrorKind::JetStream(_)) =>
        {
            let stream = jetstream.get_stream_no_info(name).await?;
            return one_by_one(&stream, start_sequence, limit).await;
        }
        made => made?,
    };
    let mut messages = Vec::new();
    // A fetch may return fewer than exist.
    let mut pending = reading.consumer.cached_info().num_pending;
    while messages.is_empty() && pending > 0 {
        let mut batch = reading.consumer.fetch().max_messages(limit).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            let info = message.info()?;
            reading.read(info.consumer_sequence)?;
            let place = (info.stream_sequence, info.published);
            messages.push(stored(place, &message.subject, message.headers.as_ref()));
        }
        if messages.is_empty() {
            pending = reading.left().await?;
        }
    }
    Ok(messages)
}

/// The same without a consumer, by a request for each message.
async fn one_by_one(
    stream: &Stream<()>,
    start_sequence: u64,
    limit: usize,
) -> Result<Vec<Stored>, BoxError> {
    let mut messages = Vec::new();
    let mut from = start_sequence;
    while messages.len() < limit {
        let message = match stream.get_first_raw_message_by_subject(">", from).await {
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
            found => found?,
        };
        from = message.sequence + 1;
        let place = (message.sequence, message.time);
        messages.push(stored(place, &message.subject, Some(&message.headers)));
    }
    Ok(messages)
}

fn stored((sequence, time): (u64, DateTime), subject: &str, headers: Option<&HeaderMap>) -> Stored {
    let version = headers.and_then(|headers| headers.get(VERSION_HEADER));
    let version = version.map(|version| version.as_str().to_owned());
    let micros = i64::try_from(time.unix_timestamp_nanos() / 1_000).ok();
    let published_at = micros.map(Timestamp::from_unix_micros);
    Stored { sequence, subject: subject.to_owned(), version, published_at }
}
