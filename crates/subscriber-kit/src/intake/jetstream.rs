//! [`Source`] over NATS JetStream.

mod incarnation;

use std::{sync::Arc, time::Duration};

use async_nats::{
    Message,
    jetstream::{
        self, ErrorCode,
        consumer::{Info, PullConsumer, pull},
        context::{GetStreamError, GetStreamErrorKind},
        stream::{self, RetentionPolicy, Stream},
    },
};
use futures_util::{StreamExt, TryStreamExt};
use nudge_protocol::{EntityName, Notification, Timestamp, notification::VERSION_HEADER, subject};
use nudge_runtime::{
    BoxError, Broker,
    broker::reading::Reading,
    traces::{Parent, TRACEPARENT},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::intake::{
    claim::{Claimed, claim, remove_former},
    cloud_events::CloudEvents,
    consumer::{Altered, compare, read_model_of, wanted, whose},
    source::{Asking, Consumer, ConsumerState, Deliveries, Delivery, Durable, NoStream, Source},
};
use incarnation::Incarnation;

/// Maximum number of messages per pull.
const PULL_MESSAGES: usize = 500;
/// How long a pull stays open. Heartbeats at half of it tell a dead connection from a quiet stream.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// The broker removes a consumer that only rereads messages once nobody has pulled from it for this long.
const REREADING_INACTIVE: Duration = Duration::from_secs(30);

impl Source for Broker {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            let from = Notifier::new(durable);
            let stream = found(self.jetstream.get_stream(&from.stream).await, &from.stream)?;
            let retention = stream.cached_info().config.retention;
            if durable.events.is_some() && retention != RetentionPolicy::Limits {
                return Err("its stream gives each message to one reader only: following it would take them away from others".into());
            }
            let claimed = claim(self, &stream, durable).await?;
            let config = wanted(durable, &claimed.name);
            let (consumer, mended, altered) = mended(&stream, &claimed, &config).await?;
            // The stream is read after the consumer; otherwise the consumer could merely seem to be ahead of it.
            let now = stream.get_info().await?;
            let mut opened = state(&now, consumer.cached_info());
            (opened.altered, opened.mended) = (altered, mended);
            if opened.is_ahead() {
                stream.delete_consumer(&claimed.name).await?;
                return Err("the consumer was ahead of its stream: recreating it".into());
            }
            let (settings, service) = (durable.settings, durable.service);
            let former = subject::former_consumer_name(service, durable.entity, durable.read_model);
            let former = remove_former(self.clone(), stream.clone(), former, settings.unused_after);
            let consumer = Opened {
                broker: self.clone(),
                reader: format!("{service}-{}", durable.entity),
                from,
                stream,
                incarnation: Incarnation::of(consumer, settings.unused_after.min(PULL_EXPIRES) / 2),
                opened,
                config,
                mend_at: Instant::now() + settings.mend_interval,
                _former: AbortOnDropHandle::new(tokio::spawn(former)),
            };
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        Broker::connections(self)
    }

    fn is_connected(&self) -> bool {
        Broker::is_connected(self)
    }

    fn last_error(&self) -> Option<String> {
        Broker::last_error(self)
    }

    fn flush(&self) -> Asking<'_, ()> {
        Box::pin(async { Ok(self.client.flush().await?) })
    }
}

/// A stream, or an error that tells a missing one from others.
fn found(stream: Result<Stream, GetStreamError>, name: &str) -> Result<Stream, BoxError> {
    let is_missing = |error: &GetStreamError| match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    };
    stream.map_err(|error| match is_missing(&error) {
        true => NoStream(name.to_owned()).into(),
        false => error.into(),
    })
}

/// Repairs the consumer if it was altered. Also returns whether it was repaired, and what could not be repaired but
/// loses nothing.
async fn mended(
    stream: &Stream,
    claimed: &Claimed,
    wanted: &pull::Config,
) -> Result<(PullConsumer, bool, Option<String>), BoxError> {
    if let Some(created) = &claimed.created {
        return Ok((created.clone(), false, None));
    }
    let name = claimed.name.as_str();
    let found = stream.consumer_info(name).await?;
    if whose(wanted) != read_model_of(&found.config) {
        return Err(ANOTHERS.into());
    }
    let Altered { skips, costs } = compare(wanted, &found.config);
    if !skips.is_empty() {
        let skips = skips.join(", ");
        tracing::warn!(
            consumer = name,
            skips,
            "the consumer was altered at the broker: recreating it"
        );
        let anew = async {
            stream.delete_consumer(name).await?;
            // Strictly: another read model may be quicker.
            Ok::<_, BoxError>(stream.create_consumer_strict(wanted.clone()).await?)
        };
        let anew = anew.await.map_err(|error| Unmended { altered: skips, source: error })?;
        return Ok((anew, true, None));
    }
    let mut left = None;
    if !costs.is_empty() {
        let costs = costs.join(", ");
        tracing::warn!(
            consumer = name,
            costs,
            "the consumer was altered at the broker: restoring its settings"
        );
        // The operator's settings stay.
        let config = pull::Config {
            description: found.config.description.clone(),
            metadata: found
                .config
                .metadata
                .clone()
                .into_iter()
                .chain(wanted.metadata.clone())
                .collect(),
            sample_frequency: found.config.sample_frequency,
            num_replicas: found.config.num_replicas,
            memory_storage: found.config.memory_storage,
            ..wanted.clone()
        };
        if let Err(error) = stream.update_consumer(config).await {
            left = Some(format!("{costs}; its settings cannot be restored: {error}"));
        }
    }
    if found.paused {
        tracing::warn!(consumer = name, "the consumer was paused at the broker: resuming it");
        let paused = || "it is paused at the broker".to_owned();
        let resumed = stream.resume_consumer(name).await;
        resumed.map_err(|error| Unmended { altered: paused(), source: error.into() })?;
    }
    let mended = found.paused || (!costs.is_empty() && left.is_none());
    Ok((stream.get_consumer(name).await?, mended, left))
}

/// What one has acknowledged does not count for another, so a consumer is never shared, however short.
const ANOTHERS: &str = "the consumer does not name this read model any more: finding another";

/// The consumer can neither be used as it is nor repaired.
#[derive(Debug, thiserror::Error)]
#[error("the consumer was altered at the broker ({altered}) and cannot be repaired")]
struct Unmended {
    altered: String,
    #[source]
    source: BoxError,
}

/// An open consumer.
struct Opened {
    broker: Broker,
    /// What the names of consumers that reread messages begin with.
    reader: String,
    from: Notifier,
    stream: Stream,
    incarnation: Arc<Incarnation>,
    opened: ConsumerState,
    /// The configuration that it needs.
    config: pull::Config,
    /// From this time on, alterations that only cost time are repaired again. Without a pause, two releases with
    /// different limits would keep altering the consumer back and forth.
    mend_at: Instant,
    _former: AbortOnDropHandle<()>,
}

/// The positions of the stream and of the consumer.
fn state(stream: &stream::Info, info: &Info) -> ConsumerState {
    ConsumerState {
        created: stream.created.to_string(),
        last_sequence: stream.state.last_sequence,
        delivered: info.delivered.stream_sequence,
        ack_floor: info.ack_floor.stream_sequence,
        ack_pending: info.num_ack_pending as u64,
        pending: info.num_pending,
        altered: None,
        mended: false,
    }
}

impl Consumer for Opened {
    fn opened(&self) -> &ConsumerState {
        &self.opened
    }

    fn state(&self) -> Asking<'_, ConsumerState> {
        Box::pin(async {
            let info = self.incarnation.look().await?;
            if whose(&self.config) != read_model_of(&info.config) {
                return Err(ANOTHERS.into());
            }
            let Altered { skips, costs } = compare(&self.config, &info.config);
            if info.paused {
                return Err("the consumer was paused at the broker: resuming it".into());
            }
            if !skips.is_empty() {
                let skips = skips.join(", ");
                return Err(format!("the consumer was altered ({skips}): recreating it").into());
            }
            let altered = (!costs.is_empty()).then(|| costs.join(", "));
            if let Some(altered) = &altered
                && Instant::now() >= self.mend_at
            {
                return Err(format!(
                    "the consumer was altered ({altered}): restoring its settings"
                )
                .into());
            }
            let now = self.stream.get_info().await?;
            let now = ConsumerState { altered, ..state(&now, &info) };
            if now.created != self.opened.created {
                return Err("the stream was recreated by someone else".into());
            }
            match now.is_ahead() {
                true => Err("the consumer is ahead of its stream".into()),
                false => Ok(now),
            }
        })
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            let incarnation = self.incarnation.clone();
            let pull = incarnation.consumer().stream().max_messages_per_batch(PULL_MESSAGES);
            let pull = pull.expires(PULL_EXPIRES).heartbeat(PULL_EXPIRES / 2);
            let messages = pull.messages().await?;
            let from = self.from.clone();
            let delivery = move |message: Result<jetstream::Message, _>| {
                let message = message?;
                let place = message.info().ok().map(|info| Place::of(&info));
                let (message, acker) = message.split();
                let mut delivery = from.delivery(&message, place);
                delivery.ack = Some(incarnation.acks(acker));
                Ok::<_, BoxError>(delivery)
            };
            Ok(messages.map(delivery).boxed())
        })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        Box::pin(async move {
            let config =
                pull::Config { inactive_threshold: REREADING_INACTIVE, ..pull::Config::default() };
            let (jetstream, stream) = (&self.broker.jetstream, &self.from.stream);
            let reading = Reading::begin(jetstream, stream, &self.reader, sequence, config).await?;
            let left = reading.consumer.cached_info().num_pending;
            let begin = (self.from.clone(), reading, left);
            let pages =
                futures_util::stream::try_unfold(begin, |(from, mut reading, left)| async move {
                    if left == 0 {
                        return Ok::<_, BoxError>(None);
                    }
                    let page = page(&from, &mut reading).await?;
                    let left = match page.last() {
                        Some(last) => last.pending,
                        None => reading.left().await?,
                    };
                    Ok(Some((futures_util::stream::iter(page).map(Ok), (from, reading, left))))
                });
            Ok(pages.try_flatten().boxed())
        })
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            let (from, subject) = (self.from.clone(), self.from.subjects.clone());
            let group = self.incarnation.consumer().cached_info().name.clone();
            let subscriber = self.broker.client.queue_subscribe(subject, group).await?;
            Ok(subscriber.map(move |message| Ok(from.delivery(&message, None))).boxed())
        })
    }
}

async fn page(from: &Notifier, reading: &mut Reading) -> Result<Vec<Delivery>, BoxError> {
    let mut batch = reading.consumer.fetch().max_messages(PULL_MESSAGES).messages().await?;
    let mut page = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message?;
        let info = message.info()?;
        reading.read(info.consumer_sequence)?;
        let place = Place::of(&info);
        page.push(from.delivery(&message, Some(place)));
    }
    Ok(page)
}

/// Where a message stands in its stream.
#[derive(Default)]
struct Place {
    sequence: u64,
    published_at: Option<Timestamp>,
    pending: u64,
}

impl Place {
    fn of(info: &jetstream::message::Info<'_>) -> Self {
        let micros = i64::try_from(info.published.unix_timestamp_nanos() / 1_000).ok();
        let published_at = micros.map(Timestamp::from_unix_micros);
        Self { sequence: info.stream_sequence, published_at, pending: info.pending }
    }
}

/// Where an entity's notifications come from.
#[derive(Clone)]
struct Notifier {
    stream: String,
    subjects: String,
    entity: EntityName,
    events: Option<CloudEvents>,
}

impl Notifier {
    fn new(durable: Durable<'_>) -> Self {
        let (entity, events) = (durable.entity.clone(), durable.events.cloned());
        let (stream, subjects) = match &events {
            Some(events) => (events.stream.clone(), events.subjects.clone()),
            None => (subject::stream_name(&entity), subject::all_subjects(&entity)),
        };
        Self { stream, subjects, entity, events }
    }

    /// A message as a delivery; an event as the notification that its owner would have published.
    fn delivery(&self, message: &Message, place: Option<Place>) -> Delivery {
        let Place { sequence, published_at, pending } = place.unwrap_or_default();
        let header = |name| message.headers.as_ref()?.get(name);
        let version = header(VERSION_HEADER).map(|version| version.as_str().to_owned());
        let context = match header(TRACEPARENT).map(|parent| Parent::read(parent.as_str())) {
            Some(Parent::Sampled(context)) => Some(context),
            _ => None,
        };
        let event = self.events.as_ref().and_then(|events| events.read(message));
        let (subject, body) = match event {
            Some((id, change)) => {
                let subject = subject::subject(&self.entity, &id);
                (subject, Notification { id, change }.to_json().into())
            }
            None => (message.subject.to_string(), message.payload.clone()),
        };
        Delivery { subject, version, body, sequence, published_at, context, pending, ack: None }
    }
}
