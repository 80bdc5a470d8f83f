//! The consuming end: a program's durable consumer on the simulated broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use nudge_protocol::{EntityName, subject};
use nudge_runtime::BoxError;
use nudge_subscriber_kit::source::{
    AckHandle, Asking, Consumer, ConsumerState, Deliveries, Delivery, Durable, Sending, Source,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Link, REQUEST_TIMEOUT,
    channel::Channel,
    delivery::{Sender, delivery},
};
use crate::{
    broker::{self, Asker, Next, Stored},
    fault::Fault,
    read_model::ReadModel,
};

/// Longest time for which nothing is delivered.
const MAX_STANDSTILL: Duration = Duration::from_secs(20);

impl Source for Link {
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>> {
        Box::pin(async move {
            self.ask().await?;
            let (entity, channel) = (durable.entity.clone(), self.channels.of(durable.entity));
            let opened = channel.with_broker(|broker| broker.open(durable.read_model));
            let opened = opened.ok_or("there is no stream")?;
            let contents = self.contents.as_ref();
            let read_model = contents.and_then(|contents| contents.of(entity.as_str())).cloned();
            let link = self.clone();
            let (name, created) = (durable.read_model.to_owned(), opened.created);
            let opened = state(&opened);
            let ack_wait = durable.settings.ack_wait;
            let max_ack_pending =
                usize::try_from(durable.settings.max_ack_pending).unwrap_or(usize::MAX);
            Ok(Arc::new(Opened {
                link,
                entity,
                channel,
                read_model,
                name,
                created,
                opened,
                ack_wait,
                max_ack_pending,
            }) as Arc<dyn Consumer>)
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

/// A consumer as it was found or created.
#[derive(Clone)]
struct Opened {
    link: Link,
    entity: EntityName,
    channel: Arc<Channel>,
    read_model: Option<Arc<ReadModel>>,
    name: String,
    created: u64,
    opened: ConsumerState,
    ack_wait: Duration,
    max_ack_pending: usize,
}

fn state(state: &broker::ConsumerInfo) -> ConsumerState {
    ConsumerState {
        created: state.created.to_string(),
        last_sequence: state.last,
        delivered: state.delivered,
        ack_floor: state.ack_floor,
        ack_pending: state.ack_pending,
        pending: state.pending,
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
            self.link.ask().await?;
            let now = self.channel.with_broker(|broker| broker.info(Some(&self.name)));
            let now = now.filter(|now| now.created == self.created);
            Ok(state(&now.ok_or("the consumer is gone")?))
        })
    }

    fn deliveries(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            self.link.ask().await?;
            let (sender, receiver) = mpsc::channel(256);
            tokio::spawn(self.clone().pump(sender));
            Ok(self.received(receiver))
        })
    }

    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries> {
        Box::pin(async move {
            self.link.ask().await?;
            let all = self.channel.with_broker(|broker| broker.from(self.created, sequence));
            let all = all.ok_or("the stream is gone")?;
            let again = all.into_iter().map(|(sequence, stored)| Ok(delivery(sequence, stored, 0)));
            Ok(self.taken(stream::iter(again.collect::<Vec<_>>())))
        })
    }

    fn fresh(&self) -> Asking<'_, Deliveries> {
        Box::pin(async {
            self.link.ask().await?;
            let (sender, receiver) = mpsc::channel(256);
            self.channel.follow(&self.link.node, sender);
            Ok(self.received(receiver))
        })
    }
}

impl Opened {
    /// The messages that have arrived for the program.
    fn received(&self, receiver: mpsc::Receiver<Result<Delivery, BoxError>>) -> Deliveries {
        let next = |mut receiver: mpsc::Receiver<_>| async move {
            receiver.recv().await.map(|delivery| (delivery, receiver))
        };
        self.taken(stream::unfold(receiver, next))
    }

    /// Notes when the program looks at each.
    fn taken(
        &self,
        deliveries: impl Stream<Item = Result<Delivery, BoxError>> + Send + 'static,
    ) -> Deliveries {
        let (program, read_model) = (self.link.node.name.clone(), self.read_model.clone());
        let noted = deliveries.inspect(move |delivery| {
            if let (Some(read_model), Ok(delivery)) = (&read_model, delivery) {
                let id = delivery.subject.rsplit('.').next().unwrap_or_default();
                read_model.followed.told(&program, id);
            }
        });
        noted.boxed()
    }

    fn told(&self, sequence: u64, stored: &Stored) -> Told {
        let broker = |broker: &mut broker::Broker| broker.stands_for(self.created, sequence);
        Told {
            subject: stored.subject.clone(),
            version: stored.names(),
            stands_for: self.channel.with_broker(broker),
        }
    }

    /// Sends messages as they become due, until the session is over.
    async fn pump(self, sender: Sender) {
        let (node, world) = (&self.link.node, &self.link.node.world);
        while !sender.is_closed() && !node.is_dead() {
            node.alive().await;
            if !node.has_link() {
                let _ = sender.send(Err("the connection is lost".into())).await;
                return;
            }
            if world.strikes(Fault::DeliveryStops) {
                sleep(world.length_of(Fault::DeliveryStops, MAX_STANDSTILL)).await;
                continue;
            }
            let now = world.elapsed();
            let asker = Asker {
                created: self.created,
                consumer: &self.name,
                ack_wait: self.ack_wait,
                max_ack_pending: self.max_ack_pending,
            };
            match self.channel.with_broker(|broker| broker.next(asker, now)) {
                Next::Gone => {
                    let _ = sender.send(Err("the consumer is gone".into())).await;
                    return;
                }
                Next::Wait(at) => {
                    let pause = at.map_or(REQUEST_TIMEOUT, |at| at.saturating_sub(now));
                    let pause = pause.clamp(Duration::from_millis(1), REQUEST_TIMEOUT);
                    let _ = timeout(pause, self.channel.woken.notified()).await;
                }
                Next::Message { sequence, stored, pending, again } => {
                    if again {
                        world.note(Fault::Redelivery);
                    }
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

    /// Sends one message, which may arrive later than the next.
    fn send(&self, sequence: u64, stored: Stored, pending: u64, sender: Sender) {
        let (opened, way) = (self.clone(), self.link.node.way());
        tokio::spawn(async move {
            let node = opened.link.node.clone();
            sleep(way).await;
            if !node.has_link() {
                return;
            }
            node.boundary(Fault::CrashAfterReceive).await;
            node.heard_of(&stored, &format!("#{sequence}"));
            let told = opened.told(sequence, &stored);
            let mut delivery = delivery(sequence, stored, pending);
            delivery.ack =
                Some(Box::new(Ack { opened, sequence, told, said: AtomicBool::new(false) }));
            let _ = sender.send(Ok(delivery)).await;
        });
    }
}

/// What a message is about.
struct Told {
    subject: String,
    /// The version that it names, if it does.
    version: Option<u64>,
    /// The highest version that it or a message that it replaced named.
    stands_for: u64,
}

struct Ack {
    opened: Opened,
    sequence: u64,
    told: Told,
    said: AtomicBool,
}

impl Ack {
    /// An acknowledged message must be covered.
    fn check(&self, told: &Told) {
        let Some(read_model) = &self.opened.read_model else { return };
        if let Ok(id) = subject::decode_subject(&self.opened.entity, &told.subject) {
            read_model.acknowledged(&id, told.version, told.stands_for);
        }
    }
}

impl AckHandle for Ack {
    fn ack(&self) -> Sending<'_> {
        Box::pin(async {
            let (channel, node) = (&self.opened.channel, &self.opened.link.node);
            node.boundary(Fault::CrashBeforeAck).await;
            if self.said.swap(true, SeqCst) {
                node.world.violated("a delivery was acknowledged twice");
            }
            self.check(&self.told);
            if node.world.strikes(Fault::DropAck) || !node.has_link() {
                return;
            }
            let Told { subject, .. } = &self.told;
            node.world.tell(format!("{} acknowledges {subject} #{}", node.name, self.sequence));
            let (created, name) = (self.opened.created, &self.opened.name);
            // After it went back, the broker takes it for another message's.
            let taken = channel.with_broker(|broker| broker.at(created, self.sequence));
            if let Some(stored) = taken {
                self.check(&self.opened.told(self.sequence, &stored));
            }
            channel.with_broker(|broker| broker.ack(created, name, self.sequence));
            // There may be room for the next.
            channel.woken.notify_waiters();
            node.boundary(Fault::CrashAfterAck).await;
        })
    }

    fn progress(&self) -> Sending<'_> {
        Box::pin(async {
            let node = &self.opened.link.node;
            node.alive().await;
            if node.has_link() {
                let again = node.world.elapsed() + self.opened.ack_wait;
                let (created, name) = (self.opened.created, &self.opened.name);
                self.opened
                    .channel
                    .with_broker(|broker| broker.progress(created, name, self.sequence, again));
            }
        })
    }
}
