//! NATS → work queue.
//!
//! A durable pull consumer, shared by all replicas of a service that share a database. It waits for
//! the stream when the owner has not made it yet, and begins again from the recorded position
//! whenever anything is not as it was: connection, stream, consumer, or the read model itself.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, Info, PullConsumer, pull},
    stream::Stream,
};
use futures_util::StreamExt;
use nudge_protocol::{
    EntityName, Notification, Version,
    notification::{VERSION_HEADER, parse_version_header},
    subject,
};
use nudge_runtime::{BoxError, Broker, problem::chain};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    acknowledge::{Countdown, Held},
    events::{Event, EventKind, Events},
    position::{Position, Positions},
    progress::Progress,
    settings::Settings,
    work_queue::Lane,
    worker::Incoming,
};

/// Pause before intake begins again.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// How often the consumer is asked how far it is, until caught up and after.
const CHECK_INTERVAL_CATCHING_UP: Duration = Duration::from_millis(50);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that one pull asks for.
const PULL_MESSAGES: usize = 500;
/// How long one pull stays open. Heartbeats at half of it tell a dead link from a quiet stream.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// A consumer that nobody has pulled from for so long is removed by the broker: its read model is
/// gone. If it does come back, it refills from the start.
const CONSUMER_INACTIVE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why intake began again.
enum Over {
    Stopped,
    /// The read model no longer is the one that this session began with.
    ReadModelReplaced,
    /// The connection was lost and made again: what was asked of the old one may be lost.
    Reconnected,
    Lost(BoxError),
}

impl<E: Into<BoxError>> From<E> for Over {
    fn from(error: E) -> Self {
        Over::Lost(error.into())
    }
}

pub(crate) struct Intake {
    pub(crate) service: String,
    pub(crate) entity: EntityName,
    pub(crate) broker: Broker,
    pub(crate) positions: Positions,
    pub(crate) queue: mpsc::Sender<Incoming>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) events: Events,
    pub(crate) settings: Settings,
}

/// What one session works with.
struct Session {
    position: Position,
    stream_created: String,
    consumer: PullConsumer,
    /// The stream's last sequence when the session began: what the first catch-up must reach.
    target: u64,
    /// Messages read again past the consumer, not yet handled.
    gap: Countdown,
    /// The position as last recorded in this session.
    recorded: Option<u64>,
}

impl Intake {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut last_error = String::new();
        loop {
            let over = tokio::select! {
                over = self.session() => over,
                () = stop.cancelled() => Over::Stopped,
            };
            self.progress.connected.set(0);
            match over {
                Over::Stopped => return,
                Over::Reconnected => continue,
                Over::ReadModelReplaced => {
                    tracing::warn!(entity = %self.entity, "the read model was emptied or replaced: refilling");
                }
                Over::Lost(error) => {
                    let mut error = chain(&*error);
                    // A denied permission looks like a timeout; the server's own words say more.
                    if let Some(said) = self.broker.last_error() {
                        error = format!("{error} (the broker said: {said})");
                    }
                    if error != last_error {
                        tracing::warn!(entity = %self.entity, %error, "intake: waiting to begin again");
                    }
                    self.progress.set_error(Some(format!("intake: {error}")));
                    last_error = error;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// From finding the stream until something is lost.
    async fn session(&mut self) -> Over {
        // Before anything is asked, so that no reconnection is missed.
        let mut connections = self.broker.connections();
        connections.mark_unchanged();
        let ended = async {
            let mut session = self.begin().await?;
            self.pull(&mut session).await
        };
        tokio::select! {
            ended = ended => match ended {
                Ok(()) => Over::Lost("the message stream ended".into()),
                Err(over) => over,
            },
            Ok(()) = connections.changed() => Over::Reconnected,
        }
    }

    async fn begin(&mut self) -> Result<Session, Over> {
        // First, so that a read model that is full is ready while the broker is away.
        let mut position = self.positions.load().await?;
        let caught_up = &self.progress.caught_up;
        caught_up.store(position.caught_up, std::sync::atomic::Ordering::Relaxed);
        let stream = self.broker.jetstream.get_stream(subject::stream_name(&self.entity)).await?;
        let stream_created = stream.cached_info().created.to_string();
        if position.stream_created != stream_created {
            // Another stream: its sequences say nothing about the last one's.
            position.position = 0;
        }
        let consumer = self.consumer(&stream, &position).await?;
        let gap = Countdown::default();
        // Handled, the consumer says, but not in this read model; or delivered to somebody who may
        // be gone, and then it would come again only after `ack_wait`.
        let info = consumer.cached_info();
        let delivered = info.delivered.stream_sequence;
        let to = if info.num_ack_pending > 0 { delivered } else { info.ack_floor.stream_sequence };
        if to > position.position {
            self.read_gap(&stream, position.position + 1, to, &gap).await?;
        }
        self.progress.connected.set(1);
        self.progress.set_error(None);
        let target = stream.cached_info().state.last_sequence;
        Ok(Session { position, stream_created, consumer, target, gap, recorded: None })
    }

    async fn consumer(&self, stream: &Stream, position: &Position) -> Result<PullConsumer, Over> {
        let name = format!("{}-{}-{}", self.service, self.entity, position.consumer);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("{} follows {}", self.service, self.entity)),
            // On a compacted stream "all" is one message per entity.
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.settings.ack_wait,
            max_deliver: -1,
            max_ack_pending: self.settings.max_ack_pending,
            inactive_threshold: CONSUMER_INACTIVE,
            ..pull::Config::default()
        };
        Ok(stream.get_or_create_consumer(&name, config).await?)
    }

    /// Reads again what the consumer counts as handled and this read model does not hold.
    async fn read_gap(
        &self,
        stream: &Stream,
        from: u64,
        to: u64,
        gap: &Countdown,
    ) -> Result<(), Over> {
        tracing::info!(entity = %self.entity, from, to, "reading again what this read model has not seen");
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let mut left = consumer.cached_info().num_pending;
        while left > 0 {
            let mut batch = consumer.fetch().max_messages(PULL_MESSAGES).messages().await?;
            while let Some(message) = batch.next().await {
                let message = message?;
                let (sequence, pending) = message.info().map(|i| (i.stream_sequence, i.pending))?;
                if sequence <= to {
                    let held = Held::new(gap.handle());
                    self.hand_over(&message, Lane::Backlog, Some(held)).await?;
                }
                left = if sequence >= to { 0 } else { pending };
            }
        }
        Ok(())
    }

    async fn pull(&mut self, session: &mut Session) -> Result<(), Over> {
        let pull = session.consumer.stream().max_messages_per_batch(PULL_MESSAGES);
        let mut messages =
            pull.expires(PULL_EXPIRES).heartbeat(PULL_EXPIRES / 2).messages().await?;
        let mut fresh: Option<async_nats::Subscriber> = None;
        let mut next_check = Instant::now();
        loop {
            let paused = *self.paused.borrow_and_update();
            tokio::select! {
                message = messages.next(), if !paused => match message {
                    Some(message) => self.take(message?).await?,
                    None => return Ok(()),
                },
                message = next_fresh(&mut fresh), if !paused => {
                    // A full queue loses nothing here: the durable consumer brings it too.
                    if let (Some(message), true) = (&message, self.queue.capacity() > 0) {
                        self.hand_over(message, Lane::Fresh, None).await?;
                    }
                    if message.is_none() {
                        fresh = None;
                    }
                }
                Ok(()) = self.paused.changed() => {}
                () = tokio::time::sleep_until(next_check) => {
                    let info = session.consumer.get_info().await?;
                    let caught_up = self.check(session, &info).await?;
                    self.follow_fresh(&mut fresh, &info).await?;
                    let pause = if caught_up { CHECK_INTERVAL } else { CHECK_INTERVAL_CATCHING_UP };
                    next_check = Instant::now() + pause;
                }
            }
        }
    }

    async fn take(&self, message: jetstream::Message) -> Result<(), Over> {
        let pending = message.info().map_or(0, |info| info.pending);
        let backlog = pending > self.settings.max_backlog_messages;
        let lane = if backlog { Lane::Backlog } else { Lane::Fresh };
        let (message, acker) = message.split();
        self.hand_over(&message, lane, Some(Held::new(acker))).await
    }

    /// Turns a message into work. The subject alone names the key: whatever the body and headers
    /// hold, this message replaced one that may have been true, so the key is looked at.
    async fn hand_over(
        &self,
        message: &async_nats::Message,
        lane: Lane,
        held: Option<Held>,
    ) -> Result<(), Over> {
        let id = match subject::decode_subject(&self.entity, &message.subject) {
            Ok(id) => id,
            Err(error) => {
                // It names no entity, so it can have replaced no entity's notification.
                self.progress.malformed.inc();
                tracing::warn!(subject = %message.subject, %error, "a message that names no entity");
                if let Some(held) = held {
                    held.ack().await;
                }
                return Ok(());
            }
        };
        self.progress.received.inc();
        let (floor, fault) = read(message, &id);
        self.events.emit(|| Event {
            version: floor,
            ..Event::now(EventKind::Received, &self.entity, &id)
        });
        if let Some(fault) = fault {
            self.progress.malformed.inc();
            tracing::warn!(entity = %self.entity, %id, fault, "a malformed notification");
            self.events.emit(|| Event {
                detail: Some(fault.clone()),
                ..Event::now(EventKind::Malformed, &self.entity, &id)
            });
        }
        let unsure = floor.is_none();
        let floor = floor.unwrap_or(Version::NONE);
        let incoming = Incoming { id, lane, floor, unsure, attempts: 0, held };
        self.queue.send(incoming).await.map_err(|_| Over::Stopped)
    }

    /// Records the position, and whether the first catch-up is done. Returns the latter.
    async fn check(&self, session: &mut Session, info: &Info) -> Result<bool, Over> {
        use std::sync::atomic::Ordering::Relaxed;
        self.progress.stream_pending.set(info.num_pending as i64);
        let floor = info.ack_floor.stream_sequence;
        // Until the gap is handled, the old position is the true one.
        let gap_closed = session.gap.left() == 0;
        if gap_closed {
            let (consumer, created) = (&session.position.consumer, &session.stream_created);
            let known = match session.recorded == Some(floor) {
                true => self.positions.read().await?.is_some_and(|p| p.consumer == *consumer),
                false => self.positions.record(consumer, created, floor).await?,
            };
            if !known {
                return Err(Over::ReadModelReplaced);
            }
            session.recorded = Some(floor);
            self.progress.position.store(floor, Relaxed);
        }
        let nothing_left = info.num_pending == 0 && info.num_ack_pending == 0;
        let done = gap_closed && (floor >= session.target || nothing_left);
        if done && !self.progress.caught_up.swap(true, Relaxed) {
            self.positions.caught_up(&session.position.consumer).await?;
            tracing::info!(entity = %self.entity, "caught up");
        }
        Ok(self.progress.caught_up.load(Relaxed))
    }

    /// A key that is rewritten again and again moves to the tail of the stream each time, and under
    /// backlog the durable consumer would not reach it until that stops. So while there is backlog,
    /// fresh notifications are also taken as they are published.
    async fn follow_fresh(
        &self,
        fresh: &mut Option<async_nats::Subscriber>,
        info: &Info,
    ) -> Result<(), Over> {
        let stuck = info.num_ack_pending as i64 >= self.settings.max_ack_pending;
        let behind = info.num_pending > self.settings.max_backlog_messages
            || (stuck && info.num_pending > 0);
        match (behind, fresh.is_some()) {
            (true, false) => {
                let subject = subject::all_subjects(&self.entity);
                let group = info.name.clone();
                *fresh = Some(self.broker.client.queue_subscribe(subject, group).await?);
            }
            (false, true) if info.num_pending == 0 => *fresh = None,
            _ => {}
        }
        Ok(())
    }
}

async fn next_fresh(fresh: &mut Option<async_nats::Subscriber>) -> Option<async_nats::Message> {
    match fresh {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// The version that a message names, and what is wrong with it.
fn read(
    message: &async_nats::Message,
    id: &nudge_protocol::EntityId,
) -> (Option<Version>, Option<String>) {
    let header = message.headers.as_ref().and_then(|headers| headers.get(VERSION_HEADER));
    let version = header.map(|value| parse_version_header(value.as_str()));
    let version_fault = match &version {
        Some(Err(error)) => Some(format!("{VERSION_HEADER}: {error}")),
        _ => None,
    };
    let body_fault = match Notification::from_json(&message.payload) {
        Ok(body) if body.id == *id => None,
        Ok(body) => Some(format!("the body names {:?}", body.id)),
        Err(error) => Some(format!("the body cannot be read: {error}")),
    };
    (version.and_then(Result::ok), version_fault.or(body_fault))
}
