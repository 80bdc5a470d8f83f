//! Intake: from NATS to the work queue.
//!
//! A durable pull consumer, shared by all replicas of a service that share a database. It waits for the stream if the
//! owner has not created it yet, and starts again from the stored position whenever the connection, the stream, the
//! consumer or the read model itself has changed.

pub(crate) mod acknowledge;
mod check;
mod claim;
pub(crate) mod cloud_events;
mod consumer;
mod fresh;
mod jetstream;
mod message;
pub mod source;
mod withheld;

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::StreamExt;
use nudge_protocol::{EntityName, Version, subject};
use nudge_runtime::{BoxError, alerts::What, clock, problem::chain};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    read_model::{
        position::Positions,
        recent::Recent,
        replica::{Mark, Replica},
    },
    settings::Settings,
    telemetry::{
        events::{Event, EventKind, Events, event},
        progress::Progress,
        seldom::Seldom,
        traces::Waiting,
    },
    work::{
        run::{Heard, Lane},
        worker::Incoming,
    },
};
use acknowledge::{Countdown, Held};
use cloud_events::CloudEvents;
use source::{Consumer, ConsumerState, Deliveries, Delivery, Durable, NoStream, Source};
use withheld::Withheld;

/// Pause before intake starts again.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// How often the consumer is asked for its positions, until caught up and afterwards.
const CHECK_INTERVAL_CATCHING_UP: Duration = Duration::from_millis(50);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A message that the queue takes only after so long was held up: so was whatever was published meanwhile.
const HELD_UP_AFTER: Duration = Duration::from_secs(1);

/// Why a session ended.
enum Over {
    Stopped,
    /// The read model is no longer the one with which this session began.
    ReadModelReplaced,
    /// Another replica is gone, and may have lost what is stored nowhere else.
    ReplicaGone,
    /// The connection was lost and made again: requests on the old one may be lost.
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
    pub(crate) source: Arc<dyn Source>,
    pub(crate) cloud_events: Option<CloudEvents>,
    /// Whether the service is ready without it, if its stream does not exist.
    pub(crate) optional: bool,
    pub(crate) positions: Positions,
    pub(crate) replica: Replica,
    pub(crate) recent: Arc<Recent>,
    pub(crate) queue: mpsc::Sender<Incoming>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) events: Events,
    /// Limits log lines about malformed messages.
    pub(crate) said: Seldom,
    pub(crate) traces: Waiting,
    pub(crate) settings: Settings,
}

/// The state of one session.
struct Session {
    /// What the database holds, as last found or stored.
    mark: Mark,
    consumer: Arc<dyn Consumer>,
    /// Number of messages that were reread bypassing the consumer and are not handled yet.
    gap: Countdown,
    withheld: Withheld,
    /// The sequence up to which the last check knew of messages.
    counted_to: u64,
    /// The sequence up to which messages are backlog, to the last of them: they were published while nobody took any, or
    /// behind too many others.
    backlog_to: u64,
    /// Whether messages have been held up since the last check.
    held_up: bool,
    /// Whether nobody took any for a while until the last check, as during a pause.
    was_away: bool,
    /// Cancelled when the session ends, unless the program stops: then runs in progress are still finished and
    /// acknowledged.
    over: CancellationToken,
}

impl Session {
    /// A backlog is one to its end: otherwise its last messages, which are the newest, would count as fresh, and those of
    /// a short one all of them.
    fn looks_for_backlog(&mut self, state: &ConsumerState, max_backlog_messages: u64) {
        let held_up = std::mem::take(&mut self.held_up);
        if held_up || state.pending > max_backlog_messages {
            self.backlog_to = state.last_sequence;
        }
    }
}

impl Intake {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut last_error = String::new();
        loop {
            let session = CancellationToken::new();
            let over = tokio::select! {
                biased;
                () = stop.cancelled() => Over::Stopped,
                over = self.session(session.clone()) => {
                    session.cancel();
                    over
                }
            };
            self.progress.connected.set(0);
            match over {
                Over::Stopped => return,
                Over::Reconnected => continue,
                Over::ReplicaGone => {
                    tracing::info!(entity = %self.entity, "another replica is gone: rereading what it had not recorded");
                    continue;
                }
                Over::ReadModelReplaced => self.note_replaced(),
                Over::Lost(error) => {
                    if self.optional && error.is::<NoStream>() {
                        self.progress.absent.store(true, Relaxed);
                    }
                    let mut error = chain(&*error);
                    // A denied permission looks like a timeout; the server's own words say more.
                    if let Some(said) = self.source.last_error() {
                        error = format!("{error} (the broker said: {said})");
                    }
                    if error != last_error {
                        tracing::warn!(entity = %self.entity, %error, "intake failed: retrying");
                    }
                    self.progress.set_intake_error(Some(format!("intake: {error}")));
                    last_error = error;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
        }
    }

    /// Runs one session, from finding the stream until something is lost.
    async fn session(&mut self, over: CancellationToken) -> Over {
        // Before any request, so that no reconnection is missed.
        let mut connections = self.source.connections();
        connections.mark_unchanged();
        let ended = async {
            let mut session = self.begin(over).await?;
            self.pull(&mut session).await
        };
        tokio::select! {
            biased;
            Ok(()) = connections.changed() => Over::Reconnected,
            ended = ended => match ended {
                Ok(()) => Over::Lost("the message stream ended".into()),
                Err(over) => over,
            },
        }
    }

    async fn begin(&mut self, over: CancellationToken) -> Result<Session, Over> {
        let began = Instant::now();
        // First, so that a filled read model is ready even while the broker is unreachable.
        let mut position = self.positions.load().await?;
        let caught_up = &self.progress.caught_up;
        caught_up.store(position.caught_up, Relaxed);
        let (service, entity, settings) = (&self.service, &self.entity, &self.settings);
        let events = self.cloud_events.as_ref();
        let read_model = &position.consumer;
        let durable = Durable { service, entity, read_model, settings, events };
        let consumer = self.source.open(durable).await?;
        let opened = consumer.opened();
        if opened.mended {
            self.progress.consumer_mended.inc();
            self.progress.alarm.raise(What::ConsumerMended, None);
        }
        let same = position.stream_created == opened.created;
        if same && opened.ack_floor < position.position {
            self.positions.go_back(&position, opened.ack_floor).await?;
            position.position = opened.ack_floor;
        }
        // Sequences of another stream mean nothing in this one.
        let handled = if same { position.position } else { 0 };
        let gap = Countdown::default();
        // The consumer counts these messages as handled, but this read model does not hold them; or they were delivered
        // to a replica that may be gone, and would be redelivered only after `ack_wait`.
        let to = if opened.ack_pending > 0 { opened.delivered } else { opened.ack_floor };
        // From here on, the position waits for this replica.
        let joined = self.replica.join(position, &opened.created, handled, to).await?;
        let mark = joined.ok_or(Over::ReadModelReplaced)?;
        if mark.is_after_crash {
            self.note_replaced();
            // What was lost will be read again.
            self.recent.forget(&self.recent.so_far());
        }
        if to > handled {
            tracing::info!(entity = %self.entity, from = handled + 1, to, "rereading messages that this read model has not seen");
            let gap = || Held::new(Box::new(gap.handle()), &over);
            self.read_gap(&*consumer, handled + 1..=to, gap).await?;
        }
        self.progress.connected.set(1);
        self.progress.set_intake_error(None);
        let opened = consumer.opened();
        let (counted_to, backlog_to) = (opened.counted_to(), opened.last_sequence);
        let (withheld, held_up) = (Withheld::default(), false);
        let was_away = began.elapsed() > HELD_UP_AFTER;
        Ok(Session {
            mark,
            consumer,
            gap,
            withheld,
            counted_to,
            backlog_to,
            held_up,
            was_away,
            over,
        })
    }

    fn note_replaced(&self) {
        tracing::warn!(entity = %self.entity, "the read model was emptied or restored, or lost commits in a crash: refilling");
        self.progress.replaced.inc();
    }

    /// Reads messages that the consumer counts as handled although this read model does not hold them, or that it does
    /// not deliver. Returns their number.
    async fn read_gap(
        &self,
        consumer: &dyn Consumer,
        range: RangeInclusive<u64>,
        gap: impl Fn() -> Held,
    ) -> Result<u64, Over> {
        let mut again = consumer.again_from(*range.start()).await?;
        let mut read = 0;
        while let Some(delivery) = again.next().await {
            let delivery = delivery?;
            if delivery.sequence > *range.end() {
                break;
            }
            self.hand_over(&delivery, Lane::Backlog, Some(gap())).await?;
            read += 1;
        }
        Ok(read)
    }

    /// Reads messages that the broker withholds, bypassing the consumer.
    async fn read_withheld(
        &self,
        session: &mut Session,
        state: &ConsumerState,
        paused: bool,
    ) -> Result<(), Over> {
        let room = (state.ack_pending as i64) < self.settings.max_ack_pending;
        let now = Instant::now().into_std();
        if let Some(range) = session.withheld.look(state, room && !paused, now) {
            let gap = || Held::new(Box::new(session.gap.handle()), &session.over);
            let began = Instant::now();
            let read = self.read_gap(&*session.consumer, range, gap).await?;
            session.held_up |= began.elapsed() > HELD_UP_AFTER;
            session.withheld.read(read > 0);
            self.progress.bypassed.inc_by(read);
            if read > 0 {
                tracing::warn!(entity = %self.entity, read, "the broker withholds messages: bypassing its consumer");
                self.progress.alarm.raise(What::ConsumerMended, None);
            }
        }
        let bypassed = session.withheld.is_bypassed();
        self.progress.connected.set(i64::from(!bypassed));
        let withheld = bypassed.then(|| "the broker withholds messages".to_owned());
        let altered =
            || state.altered.as_ref().map(|altered| format!("the consumer was altered: {altered}"));
        match withheld.or_else(altered) {
            Some(fault) => self.progress.set_intake_error(Some(format!("intake: {fault}"))),
            None => self.progress.alarm.clear(What::ConsumerMended, None),
        }
        Ok(())
    }

    async fn pull(&mut self, session: &mut Session) -> Result<(), Over> {
        let mut messages = session.consumer.deliveries().await?;
        let mut fresh: Option<Deliveries> = None;
        let mut next_check = Instant::now();
        loop {
            let paused = *self.paused.borrow_and_update();
            session.was_away |= paused;
            // Whoever has not pulled for a while first checks that the consumer is still this read model's, and until where
            // messages are backlog.
            let checks_first = session.was_away || session.held_up;
            if checks_first && !paused {
                next_check = Instant::now();
            }
            tokio::select! {
                // Branches that are always ready come last.
                biased;
                Ok(()) = self.paused.changed() => {}
                () = tokio::time::sleep_until(next_check) => {
                    let asked_at = clock::now();
                    let state = session.consumer.state().await?;
                    let caught_up = self.check(session, &state, asked_at).await?;
                    if std::mem::replace(&mut session.was_away, paused) {
                        // What was published meanwhile is backlog, whichever way it comes.
                        (fresh, session.held_up) = (None, true);
                        session.counted_to = state.last_sequence;
                    }
                    session.looks_for_backlog(&state, self.settings.max_backlog_messages);
                    self.read_withheld(session, &state, paused).await?;
                    if !paused {
                        self.follow_fresh(session, &mut fresh, &state).await?;
                    }
                    let pause = if caught_up { CHECK_INTERVAL } else { CHECK_INTERVAL_CATCHING_UP };
                    next_check = Instant::now() + pause;
                }
                delivery = fresh::next(&mut fresh), if !paused && !checks_first => match delivery {
                    // A full queue loses nothing here, since the durable consumer also delivers the message.
                    Some(Ok(delivery)) if self.queue.capacity() > 0 => {
                        self.hand_over(&delivery, Lane::Fresh, None).await?;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => fresh = None,
                },
                delivery = messages.next(), if !paused && !checks_first => match delivery {
                    Some(delivery) => self.take(delivery?, session).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn take(&self, mut delivery: Delivery, session: &mut Session) -> Result<(), Over> {
        let is_backlog = delivery.sequence <= session.backlog_to
            || delivery.pending > self.settings.max_backlog_messages;
        let lane = if is_backlog { Lane::Backlog } else { Lane::Fresh };
        let held = delivery.ack.take().map(|handle| Held::new(handle, &session.over));
        let began = Instant::now();
        self.hand_over(&delivery, lane, held).await?;
        session.held_up |= began.elapsed() > HELD_UP_AFTER;
        Ok(())
    }

    /// Turns a message into work. The subject alone names the key: whatever the body and the headers contain, this
    /// message may have replaced a true one, so the owner is asked for the key.
    async fn hand_over(
        &self,
        message: &Delivery,
        lane: Lane,
        held: Option<Held>,
    ) -> Result<(), Over> {
        let id = match subject::decode_subject(&self.entity, &message.subject) {
            Ok(id) => id,
            Err(error) => {
                // It names no entity, so it cannot have replaced the notification of one.
                self.progress.malformed.inc();
                if self.said.may_say() {
                    let subject = &message.subject;
                    tracing::warn!(%subject, %error, "a message that names no entity");
                }
                if let Some(held) = held {
                    held.ack().await;
                }
                return Ok(());
            }
        };
        self.progress.received.inc();
        let now = clock::now();
        let (floor, fault) = message::read(message, &id, now);
        self.events
            .emit(|| Event { version: floor, ..event(EventKind::Received, &self.entity, &id) });
        if let Some(fault) = fault {
            self.progress.malformed.inc();
            if self.said.may_say() {
                tracing::warn!(entity = %self.entity, %id, fault, "a malformed notification");
            }
            self.events.emit(|| Event {
                detail: Some(fault.clone()),
                ..event(EventKind::Malformed, &self.entity, &id)
            });
        }
        let unsure = floor.is_none();
        let floor = floor.unwrap_or(Version::NONE);
        self.traces.heard(&id, message.context, now);
        let heard = Heard::message(now, message.sequence, message.published_at);
        let incoming = Incoming { id, lane, floor, unsure, attempts: 0, held, heard };
        self.queue.send(incoming).await.map_err(|_| Over::Stopped)
    }
}
