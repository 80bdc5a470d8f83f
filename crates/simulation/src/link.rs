//! The ports to the simulated broker, for one program: both ends, with everything that can happen on
//! the way. The publishing end is here, the consuming one in `consumer`.

pub(crate) mod channel;
mod consumer;
mod delivery;

use std::{sync::Arc, time::Duration};

use nudge_protocol::{EntityName, Notification};
use nudge_publisher::sink::{self, Sink};
use nudge_runtime::BoxError;
use serde_json::Value;
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    broker::{Broker, Stored, named},
    contents::Contents,
    fault::Fault,
    node::Node,
    world::World,
};
use channel::{Channel, Channels};

/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest transit time of a late message.
pub(crate) const LATE: Duration = Duration::from_secs(8);

/// A program's connection to the broker.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) node: Arc<Node>,
    /// For a subscriber: what its acknowledgements are about.
    pub(crate) contents: Option<Arc<Contents>>,
    pub(crate) channels: Arc<Channels>,
}

impl Link {
    /// A request on its way to the broker. Fails if there is no connection.
    pub(crate) async fn ask(&self) -> Result<(), BoxError> {
        self.node.alive().await;
        sleep(self.node.way()).await;
        self.node.alive().await;
        if !self.node.is_linked() {
            sleep(REQUEST_TIMEOUT).await;
            self.node.alive().await;
            return Err("the broker gave no answer in time".into());
        }
        Ok(())
    }

    /// Stores a message now or later, whatever happens to the program that sent it.
    fn store(
        &self,
        channel: Arc<Channel>,
        stored: Stored,
        late: Duration,
    ) -> oneshot::Receiver<Option<u64>> {
        let (done, answer) = oneshot::channel();
        let (world, name) = (self.node.world.clone(), self.node.name.clone());
        let epoch = channel.with_broker(|broker| broker.epoch());
        tokio::spawn(async move {
            sleep(late).await;
            if channel.with_broker(|broker| broker.epoch()) != epoch {
                // Messages on their way to a broker that went down are lost.
                return;
            }
            let line = format!("{name} → broker: {}", named(&stored));
            if channel.with_broker(|broker| broker.is_awaited(&stored.subject)) {
                world.note(Fault::Compaction);
            }
            let sequence = channel.with_broker(|broker| broker.publish(stored.clone()));
            let place = sequence.map_or("in vain".to_owned(), |at| format!("#{at}"));
            world.tell(format!("{line} {place}"));
            channel.tell(&stored);
            let _ = done.send(sequence);
        });
        answer
    }
}

impl Sink for Link {
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> sink::Asking<'a, sink::StreamInfo> {
        Box::pin(async move {
            self.ask().await?;
            let channel = self.channels.of(entity);
            let info = channel.with_broker(Broker::ensure);
            channel.woken.notify_waiters();
            Ok(sink::StreamInfo {
                created: info.created.to_string(),
                last_seq: info.last,
                subjects: info.subjects,
                server: Some(channel.with_broker(|broker| broker.epoch()).to_string()),
                altered: None,
                doubled: info.messages > info.subjects,
            })
        })
    }

    fn mend<'a>(&'a self, entity: &'a EntityName) -> sink::Asking<'a, Option<String>> {
        Box::pin(async {
            self.ask().await?;
            self.channels.of(entity).with_broker(Broker::thin_out);
            Ok(None)
        })
    }

    fn publish<'a>(
        &'a self,
        entity: &'a EntityName,
        message: sink::Message,
    ) -> sink::Asking<'a, u64> {
        Box::pin(async move {
            let world = &self.node.world;
            self.node.boundary(Fault::CrashBeforePublish).await;
            self.ask().await?;
            on_the_wire(world, &message);
            if world.strikes(Fault::DropPublish) {
                sleep(REQUEST_TIMEOUT).await;
                return Err("the publish was not acknowledged in time".into());
            }
            let late = world.strikes(Fault::LatePublish);
            let late =
                if late { world.length_of(Fault::LatePublish, LATE) } else { Duration::ZERO };
            let version = Some(message.version);
            let stored = Stored { subject: message.subject, version, body: message.body.into() };
            let stored = self.store(self.channels.of(entity), stored, late);
            let answer = timeout(REQUEST_TIMEOUT, stored).await;
            self.node.boundary(Fault::CrashAfterPublish).await;
            if world.strikes(Fault::DropPublishAck) || !self.node.has_link() {
                sleep(REQUEST_TIMEOUT).await;
                return Err("the acknowledgement is lost".into());
            }
            match answer {
                Ok(Ok(Some(sequence))) => Ok(sequence),
                Ok(_) => Err("there is no stream".into()),
                Err(_) => Err("the publish was not acknowledged in time".into()),
            }
        })
    }

    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> sink::Asking<'a, Vec<sink::Stored>> {
        Box::pin(async move {
            self.ask().await?;
            let channel = self.channels.of(entity);
            let stored = channel.with_broker(|broker| broker.beyond(sequence, limit));
            let stored = stored.ok_or("there is no stream")?.into_iter();
            let stored = stored.map(|(sequence, Stored { subject, version, .. })| sink::Stored {
                sequence,
                subject,
                version,
                published_at: None,
            });
            Ok(stored.collect())
        })
    }

    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> sink::Asking<'a, Option<sink::Looked>> {
        Box::pin(async move {
            self.ask().await?;
            if !self.node.world.broker_looks_up() {
                return Ok(None);
            }
            let looked = self.channels.of(entity).with_broker(|broker| {
                let stored = subjects.iter().filter_map(|subject| broker.on_subject(subject));
                let stored = stored.map(|(sequence, Stored { subject, version, .. })| {
                    sink::Stored { sequence, subject, version, published_at: None }
                });
                let last_seq = broker.info(None).map_or(0, |info| info.last);
                sink::Looked { last_seq, stored: stored.collect() }
            });
            Ok(Some(looked))
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.node.connections()
    }

    fn is_connected(&self) -> bool {
        self.node.has_link()
    }
}

/// Checks a message of the owner: an ID and a change, and nothing else.
fn on_the_wire(world: &World, message: &sink::Message) {
    let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
    let fields: Vec<_> = body.as_object().into_iter().flat_map(|body| body.keys()).collect();
    if fields != ["change", "id"] && fields != ["id", "change"] {
        world.violated(format!("a message holds {fields:?}"));
    }
    if Notification::from_json(&message.body).is_err() {
        world.violated("a message cannot be read");
    }
}
