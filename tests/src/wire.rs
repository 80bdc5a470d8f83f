//! Publishing by hand what other publishers, bugs and accidents may put on the wire.

use async_nats::{
    HeaderMap,
    jetstream::{Context, consumer::PullConsumer, context::PublishError, stream::Stream},
};
use futures_util::{TryStreamExt, future::join_all};
use nudge_protocol::{Change, EntityName, Notification, WriteToken, notification, subject};

use crate::{Nats, owner::ENTITY};

/// A publisher without a change log, on the stream of `thing`s.
pub struct Wire {
    jetstream: Context,
    stream: Stream,
}

impl Wire {
    /// Connects, and creates the stream if it is missing, as an owner would.
    pub async fn open(nats: &Nats) -> Self {
        Self::on(nats.jetstream().await).await
    }

    /// Like [`open`](Self::open), on an existing connection.
    pub async fn on(jetstream: Context) -> Self {
        let entity = EntityName::new(ENTITY).expect("a good name");
        let config = nudge_publisher::stream::config(&entity);
        let stream = jetstream.get_or_create_stream(config).await;
        Self { jetstream, stream: stream.expect("a stream") }
    }

    /// The subject of a thing.
    pub fn subject(id: &str) -> String {
        subject::subject(&EntityName::new(ENTITY).expect("a good name"), &crate::id(id))
    }

    /// A true notification, as the relay publishes it.
    pub async fn notify(&self, token: &WriteToken) {
        let version = token.version.to_string();
        self.announce(token.id.as_str(), Some(&version)).await;
    }

    /// Publishes a valid body with any version header, or without one.
    pub async fn announce(&self, id: &str, version: Option<&str>) {
        let change = Change::Updated;
        let body = Notification { id: crate::id(id), change };
        self.send(&Self::subject(id), version, &body.to_json()).await.expect("the stream takes it");
    }

    /// Like [`announce`](Self::announce), with owned arguments.
    pub async fn announce_owned(&self, id: String, version: String) {
        self.announce(&id, Some(&version)).await;
    }

    /// Like [`announce`](Self::announce), for many IDs and without a version.
    pub async fn announce_all(&self, ids: impl IntoIterator<Item = String>) {
        let announce = |id: String| async move { self.announce(&id, None).await };
        join_all(ids.into_iter().map(announce)).await;
    }

    /// Publishes any message.
    pub async fn send(
        &self,
        subject: &str,
        version: Option<&str>,
        body: &[u8],
    ) -> Result<(), PublishError> {
        let mut headers = HeaderMap::new();
        if let Some(version) = version {
            headers.insert(notification::VERSION_HEADER, version);
        }
        let (subject, body) = (subject.to_owned(), body.to_vec());
        let sent = self.jetstream.publish_with_headers(subject, headers, body.into());
        sent.await?.await.map(drop)
    }

    /// The stream, as an operator sees it.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream's last sequence.
    pub async fn last_sequence(&self) -> u64 {
        let info = self.stream.get_info().await.expect("the stream is there");
        info.state.last_sequence
    }

    /// The name of the durable consumer of a service; if it has several, of the newest: it may have taken another after its
    /// read model was emptied.
    pub async fn consumer(&self, service: &str) -> String {
        let all = self.stream.consumers();
        let all: Vec<_> = all.try_collect().await.expect("consumers");
        let entity = EntityName::new(ENTITY).expect("a name");
        let is_its = |name: &str| subject::consumer_service(name, &entity) == Some(service);
        let its = all.into_iter().filter(|one| is_its(&one.name));
        its.max_by_key(|one| one.created).expect("the service has a consumer").name
    }

    /// Number of messages that a service has not acknowledged.
    pub async fn unacknowledged(&self, service: &str) -> usize {
        let name = self.consumer(service).await;
        let consumer: PullConsumer = self.stream.get_consumer(&name).await.expect("it is there");
        let info = consumer.cached_info();
        info.num_ack_pending + info.num_pending as usize
    }
}
