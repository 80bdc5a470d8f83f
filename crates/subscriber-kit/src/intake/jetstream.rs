//! [`Source`] over NATS JetStream.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Message,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        stream::Stream,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use nudge_protocol::{EntityName, notification::VERSION_HEADER, subject};
use nudge_runtime::{BoxError, Broker};
use tokio::sync::watch;

use crate::intake::source::{Asking, Consumer, Deliveries, Delivery, Durable, Source, Standing};

/// Messages that one pull asks for.
const PULL_MESSAGES: usize = 500;
/// How long one pull stays open. Heartbeats at half of it tell a dead link from a quiet stream.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// A consumer that nobody has pulled from for so long is removed by the broker: its read model is
/// gone. If it does come back, it refills from the start.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The same for a consumer that only reads something again.
const REREADING_INACTIVE: Duration = Duration::from_secs(30);

impl Source for Broker {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            let stream = self.jetstream.get_stream(subject::stream_name(durable.entity)).await?;
            let config = pull::Config {
                durable_name: Some(durable.name.to_owned()),
                description: Some(format!("{} follows {}", durable.service, durable.entity)),
                // On a compacted stream "all" is one message per entity.
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::Explicit,
                ack_wait: durable.settings.ack_wait,
                max_deliver: -1,
                max_ack_pending: durable.settings.max_ack_pending,
                inactive_threshold: CONSUMER_INACTIVE,
                ..pull::Config::default()
            };
            let consumer = stream.get_or_create_consumer(durable.name, config).await?;
            let opened = standing(&stream, consumer.cached_info());
            let (broker, entity) = (self.clone(), durable.entity.clone());
            Ok(Arc::new(Opened { broker, entity, stream, consumer, opened }) as Arc<dyn Consumer>)
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

struct Opened {
    broker: Broker,
    entity: EntityName,
    stream: Stream,
    consumer: PullConsumer,
    opened: Standing,
}

/// The stream as it was when it was found, and the consumer as it is now.
fn standing(stream: &Stream, info: &jetstream::consumer::Info) -> Standing {
    Standing {
        created: stream.cached_info().created.to_string(),
        last_sequence: stream.cached_info().state.last_sequence,
        delivered: info.delivered.stream_sequence,
        ack_floor: info.ack_floor.stream_sequence,
        ack_pending: info.num_ack_pending as u64,
        pending: info.num_pending,
    }
}

impl Consumer for Opened {
    fn opened(&self) -> &Standing {
        &self.opened
    }

    fn standing(&self) -> Asking<'_, Standing> {
        Box::pin(async { Ok(standing(&self.stream, &self.consumer.get_info().await?)) })
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            let pull = self.consumer.stream().max_messages_per_batch(PULL_MESSAGES);
            let pull = pull.expires(PULL_EXPIRES).heartbeat(PULL_EXPIRES / 2);
            let messages = pull.messages().await?;
            let delivery = |message: Result<jetstream::Message, _>| {
                let message = message?;
                let info = message.info().ok().map(|info| (info.stream_sequence, info.pending));
                let (message, acker) = message.split();
                let mut delivery = delivery(&message, info);
                delivery.ack = Some(Box::new(acker));
                Ok::<_, BoxError>(delivery)
            };
            Ok(messages.map(delivery).boxed())
        })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        Box::pin(async move {
            let config = pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: sequence },
                ack_policy: AckPolicy::None,
                inactive_threshold: REREADING_INACTIVE,
                ..pull::Config::default()
            };
            let consumer = self.stream.create_consumer(config).await?;
            let left = consumer.cached_info().num_pending;
            let pages = stream::try_unfold((consumer, left), |(consumer, left)| async move {
                if left == 0 {
                    return Ok::<_, BoxError>(None);
                }
                let page = page(&consumer).await?;
                let left = page.last().map_or(left, |last| last.pending);
                Ok(Some((stream::iter(page).map(Ok), (consumer, left))))
            });
            Ok(pages.try_flatten().boxed())
        })
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            let subject = subject::all_subjects(&self.entity);
            let group = self.consumer.cached_info().name.clone();
            let subscriber = self.broker.client.queue_subscribe(subject, group).await?;
            Ok(subscriber.map(|message| Ok(delivery(&message, None))).boxed())
        })
    }
}

async fn page(consumer: &PullConsumer) -> Result<Vec<Delivery>, BoxError> {
    let mut batch = consumer.fetch().max_messages(PULL_MESSAGES).messages().await?;
    let mut page = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message?;
        let info = message.info().map(|info| (info.stream_sequence, info.pending))?;
        page.push(delivery(&message, Some(info)));
    }
    Ok(page)
}

fn delivery(message: &Message, info: Option<(u64, u64)>) -> Delivery {
    let (sequence, pending) = info.unwrap_or_default();
    let version = message.headers.as_ref().and_then(|headers| headers.get(VERSION_HEADER));
    Delivery {
        subject: message.subject.to_string(),
        version: version.map(|version| version.as_str().to_owned()),
        body: message.payload.clone(),
        sequence,
        pending,
        ack: None,
    }
}
