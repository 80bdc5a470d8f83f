//! The state of the broker.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::PullConsumer, message::StreamMessage},
};
use futures_util::{Stream, StreamExt, TryStreamExt, future};
use nudge_protocol::{EntityName, notification::VERSION_HEADER, subject};

use super::World;

impl World {
    async fn stream(&self) -> jetstream::stream::Stream {
        let jetstream = self.nats().jetstream().await;
        jetstream.get_stream(subject::stream_name(&store())).await.expect("the stream is there")
    }

    async fn consumer(&self, service: &str) -> PullConsumer {
        let stream = self.stream().await;
        let names: Vec<_> = stream.consumer_names().try_collect().await.expect("names");
        let is_its = |name: &&String| subject::consumer_service(name, &store()) == Some(service);
        let name = names.iter().find(is_its);
        stream.get_consumer(name.expect("it has a consumer")).await.expect("it is there")
    }

    /// Makes the broker redeliver messages that a service has not acknowledged after this time instead of the kit's 30
    /// s, as an operator might.
    pub async fn deliver_again_after(&self, service: &str, ack_wait: Duration) {
        let mut config = self.consumer(service).await.cached_info().config.clone();
        config.ack_wait = ack_wait;
        self.stream().await.update_consumer(config).await.expect("the broker takes it");
    }

    /// Number of messages that were delivered to a service and not acknowledged.
    pub async fn unacknowledged(&self, service: &str) -> usize {
        self.consumer(service).await.cached_info().num_ack_pending
    }

    /// The version that the newest notification of a store names.
    pub async fn notified(&self, id: &str) -> Option<u64> {
        let message = self.notification(id).await?;
        version(&message.headers)
    }

    /// Every notification of a store that reaches the broker from now on: its ID and the version that it names. The
    /// stream shows only the newest of a store, and an owner soon replaces one that is too old.
    pub async fn notifications(&self) -> impl Stream<Item = (String, u64)> + Unpin + use<> {
        let subscriber = self.nats().subscribe(&subject::all_subjects(&store())).await;
        subscriber.filter_map(|message| {
            let id = subject::decode_subject(&store(), &message.subject).ok();
            let version = message.headers.as_ref().and_then(version);
            future::ready(id.map(|id| id.to_string()).zip(version))
        })
    }

    async fn notification(&self, id: &str) -> Option<StreamMessage> {
        let subject = subject::subject(&store(), &crate::id(id));
        self.stream().await.get_last_raw_message_by_subject(&subject).await.ok()
    }

    /// Publishes the newest notification of a store once more, if there is one.
    pub async fn notify_again(&self, id: &str) {
        let Some(message) = self.notification(id).await else {
            return;
        };
        let jetstream = self.nats().jetstream().await;
        let (subject, headers, body) = (message.subject, message.headers, message.payload);
        let sent = jetstream.publish_with_headers(subject, headers, body).await;
        sent.expect("it is sent").await.expect("the stream takes it");
    }
}

fn version(headers: &HeaderMap) -> Option<u64> {
    headers.get(VERSION_HEADER)?.as_str().parse().ok()
}

fn store() -> EntityName {
    EntityName::new("store").expect("a good name")
}
