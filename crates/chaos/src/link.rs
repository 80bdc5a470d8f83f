//! The ports to the simulated broker, as one program has them: both ends, with all that can happen on
//! the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use nudge_protocol::{EntityName, subject};
use nudge_publisher::sink::{self, Sink};
use nudge_runtime::BoxError;
use nudge_subscriber_kit::source::{
    AckHandle, Asking, Consumer, Deliveries, Delivery, Durable, Sending, Source, Standing,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    broker::{self, Next, Stored},
    check::Checker,
    fault::Fault,
    node::Node,
};

/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Usual time on the way.
const USUAL: Duration = Duration::from_millis(2);
/// Longest time on the way of a message that is late.
pub(crate) const LATE: Duration = Duration::from_secs(8);

/// A program's way to the broker.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) node: Arc<Node>,
    pub(crate) checker: Arc<dyn Checker>,
    /// Wakes whoever waits for messages.
    pub(crate) published: Arc<Notify>,
    pub(crate) ack_wait: Duration,
}

impl Link {
    /// A request and its way to the broker. Fails when there is no link.
    async fn ask(&self) -> Result<(), BoxError> {
        self.node.alive().await;
        sleep(self.way()).await;
        self.node.alive().await;
        if !self.node.is_linked() {
            sleep(REQUEST_TIMEOUT).await;
            self.node.alive().await;
            return Err("the broker gave no answer in time".into());
        }
        Ok(())
    }

    fn way(&self) -> Duration {
        let world = &self.node.world;
        let late = world.strikes(Fault::Delay);
        world.up_to(if late { LATE / 4 } else { USUAL })
    }

    /// Stores a message now or later, whatever becomes of the program that sent it.
    fn store(&self, stored: Stored, late: Duration) -> oneshot::Receiver<Option<u64>> {
        let (done, answer) = oneshot::channel();
        let (world, published) = (self.node.world.clone(), self.published.clone());
        let name = self.node.name.clone();
        tokio::spawn(async move {
            sleep(late).await;
            let line = format!("{name} → broker: {} @{:?}", stored.subject, stored.version);
            let sequence = world.with_broker(|broker| broker.publish(stored));
            world.tell(format!("{line} #{sequence:?}"));
            published.notify_waiters();
            let _ = done.send(sequence);
        });
        answer
    }
}

impl Sink for Link {
    fn ensure<'a>(&'a self, _: &'a EntityName) -> sink::Asking<'a, sink::Standing> {
        Box::pin(async move {
            self.ask().await?;
            let standing = self.node.world.with_broker(broker::Broker::ensure);
            self.published.notify_waiters();
            Ok(sink::Standing {
                created: standing.created.to_string(),
                last_seq: standing.last,
                messages: standing.messages,
            })
        })
    }

    fn publish<'a>(&'a self, _: &'a EntityName, message: sink::Message) -> sink::Asking<'a, u64> {
        Box::pin(async move {
            let world = &self.node.world;
            self.node.boundary(Fault::CrashBeforePublish).await;
            self.ask().await?;
            self.checker.on_the_wire(&message);
            if world.strikes(Fault::DropPublish) {
                sleep(REQUEST_TIMEOUT).await;
                return Err("the publish was not acknowledged in time".into());
            }
            let late = world.strikes(Fault::LatePublish);
            let late = if late { world.up_to(LATE) } else { Duration::ZERO };
            let version = Some(message.version);
            let stored = Stored { subject: message.subject, version, body: message.body.into() };
            let answer = timeout(REQUEST_TIMEOUT, self.store(stored, late)).await;
            self.node.boundary(Fault::CrashAfterPublish).await;
            if world.strikes(Fault::DropPublishAck) {
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
        _: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> sink::Asking<'a, Vec<sink::Stored>> {
        Box::pin(async move {
            self.ask().await?;
            let stored = self.node.world.with_broker(|broker| broker.beyond(sequence, limit));
            let stored = stored.ok_or("there is no stream")?.into_iter();
            let stored = stored.map(|(sequence, Stored { subject, version, .. })| sink::Stored {
                sequence,
                subject,
                version,
            });
            Ok(stored.collect())
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.node.connections()
    }
}

impl Source for Link {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            self.ask().await?;
            let opened = self.node.world.with_broker(|broker| broker.open(durable.name));
            let opened = opened.ok_or("there is no stream")?;
            let (link, entity) = (self.clone(), durable.entity.clone());
            let (name, created) = (durable.name.to_owned(), opened.created);
            let opened = standing(&opened);
            Ok(Arc::new(Opened { link, entity, name, created, opened }) as Arc<dyn Consumer>)
        })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.node.connections()
    }

    fn is_connected(&self) -> bool {
        self.node.has_link()
    }

    fn last_error(&self) -> Option<String> {
        None
    }

    fn flush(&self) -> Asking<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[derive(Clone)]
struct Opened {
    link: Link,
    entity: EntityName,
    name: String,
    created: u64,
    opened: Standing,
}

fn standing(standing: &broker::Standing) -> Standing {
    Standing {
        created: standing.created.to_string(),
        last_sequence: standing.last,
        delivered: standing.delivered,
        ack_floor: standing.ack_floor,
        ack_pending: standing.ack_pending,
        pending: standing.pending,
    }
}

impl Consumer for Opened {
    fn opened(&self) -> &Standing {
        &self.opened
    }

    fn standing(&self) -> Asking<'_, Standing> {
        Box::pin(async {
            self.link.ask().await?;
            let now = self.link.node.world.with_broker(|broker| broker.standing(Some(&self.name)));
            let now = now.filter(|now| now.created == self.created);
            Ok(standing(&now.ok_or("the consumer is gone")?))
        })
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            self.link.ask().await?;
            let (sender, receiver) = mpsc::channel(256);
            tokio::spawn(self.clone().pump(sender));
            Ok(received(receiver))
        })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        Box::pin(async move {
            self.link.ask().await?;
            let world = &self.link.node.world;
            let all = world.with_broker(|broker| broker.from(self.created, sequence));
            let all = all.ok_or("the stream is gone")?;
            let again =
                all.into_iter().map(|(sequence, stored)| Ok(self.delivery(sequence, stored, 0)));
            Ok(stream::iter(again.collect::<Vec<_>>()).boxed())
        })
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        Box::pin(std::future::ready(Ok(stream::pending().boxed())))
    }
}

impl Opened {
    fn delivery(&self, sequence: u64, stored: Stored, pending: u64) -> Delivery {
        let Stored { subject, version, body } = stored;
        Delivery { subject, version, body, sequence, pending, ack: None }
    }

    /// Sends messages as they become due, until the session is over.
    async fn pump(self, sender: mpsc::Sender<Result<Delivery, BoxError>>) {
        let (node, world) = (&self.link.node, &self.link.node.world);
        while !sender.is_closed() && !node.is_dead() {
            node.alive().await;
            if !node.has_link() {
                let _ = sender.send(Err("the connection is lost".into())).await;
                return;
            }
            let (now, ack_wait) = (world.elapsed(), self.link.ack_wait);
            match world.with_broker(|broker| broker.next(self.created, &self.name, now, ack_wait)) {
                Next::Gone => {
                    let _ = sender.send(Err("the consumer is gone".into())).await;
                    return;
                }
                Next::Wait(at) => {
                    let pause = at.map_or(REQUEST_TIMEOUT, |at| at.saturating_sub(now));
                    let pause = pause.clamp(Duration::from_millis(1), REQUEST_TIMEOUT);
                    let _ = timeout(pause, self.link.published.notified()).await;
                }
                Next::Message { sequence, stored, pending } => {
                    if world.strikes(Fault::DropDelivery) {
                        continue;
                    }
                    let copies = 1 + usize::from(world.strikes(Fault::Duplicate));
                    for _ in 0..copies {
                        self.send(sequence, stored.clone(), pending, sender.clone());
                    }
                }
            }
        }
    }

    /// Sends one message on its way, which may be longer than that of the next.
    fn send(
        &self,
        sequence: u64,
        stored: Stored,
        pending: u64,
        sender: mpsc::Sender<Result<Delivery, BoxError>>,
    ) {
        let (opened, way) = (self.clone(), self.link.way());
        tokio::spawn(async move {
            let node = opened.link.node.clone();
            sleep(way).await;
            if !node.has_link() {
                return;
            }
            node.boundary(Fault::CrashAfterReceive).await;
            let line = format!("broker → {}: {} #{sequence}", node.name, stored.subject);
            node.world.tell(format!("{line} @{:?}", stored.version));
            let told = (stored.subject.clone(), stored.version.clone());
            let mut delivery = opened.delivery(sequence, stored, pending);
            delivery.ack =
                Some(Box::new(Ack { opened, sequence, told, said: AtomicBool::new(false) }));
            let _ = sender.send(Ok(delivery)).await;
        });
    }
}

struct Ack {
    opened: Opened,
    sequence: u64,
    /// The subject, and the version if there is one.
    told: (String, Option<String>),
    said: AtomicBool,
}

impl AckHandle for Ack {
    fn ack(&self) -> Sending<'_> {
        Box::pin(async {
            let (link, node) = (&self.opened.link, &self.opened.link.node);
            node.boundary(Fault::CrashBeforeAck).await;
            if self.said.swap(true, SeqCst) {
                node.world.violated("a delivery was acknowledged twice");
            }
            let (subject, version) = &self.told;
            if let Ok(id) = subject::decode_subject(&self.opened.entity, subject) {
                let version = version.as_deref().and_then(|version| version.parse().ok());
                link.checker.acknowledged(&id, version);
            }
            if node.world.strikes(Fault::DropAck) || !node.has_link() {
                return;
            }
            node.world.tell(format!("{} acknowledges {subject} #{}", node.name, self.sequence));
            let (created, name) = (self.opened.created, &self.opened.name);
            node.world.with_broker(|broker| broker.ack(created, name, self.sequence));
            node.boundary(Fault::CrashAfterAck).await;
        })
    }

    fn progress(&self) -> Sending<'_> {
        Box::pin(async {
            let (link, node) = (&self.opened.link, &self.opened.link.node);
            node.alive().await;
            if node.has_link() {
                let again = node.world.elapsed() + link.ack_wait;
                let (created, name) = (self.opened.created, &self.opened.name);
                node.world
                    .with_broker(|broker| broker.progress(created, name, self.sequence, again));
            }
        })
    }
}

fn received(receiver: mpsc::Receiver<Result<Delivery, BoxError>>) -> Deliveries {
    let next = |mut receiver: mpsc::Receiver<_>| async move {
        receiver.recv().await.map(|delivery| (delivery, receiver))
    };
    stream::unfold(receiver, next).boxed()
}
