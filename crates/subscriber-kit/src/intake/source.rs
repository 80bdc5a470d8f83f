//! The port to a broker's notifications of one entity: JetStream in production, simulated in tests.
//!
//! Intake relies on these rules, which every implementation must keep:
//! - A delivery that is not acknowledged is redelivered, unless a newer message has replaced it.
//! - Every message up to the sequence [`ConsumerState::ack_floor`] is acknowledged or gone.
//! - Sequences rise; a recreated stream has another [`ConsumerState::created`].

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use nudge_protocol::{EntityName, Timestamp};
use nudge_runtime::{BoxError, traces::Context};
use tokio::sync::watch;

pub use crate::intake::acknowledge::{AckHandle, Sending};
use crate::{intake::cloud_events::CloudEvents, settings::Settings};

/// The future of a request to the broker.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Messages as they arrive. An error, or the end of the stream, ends the session.
pub type Deliveries = Pin<Box<dyn Stream<Item = Result<Delivery, BoxError>> + Send>>;

/// A message.
pub struct Delivery {
    /// Its subject, which names the key.
    pub subject: String,
    /// Its version header, unparsed.
    pub version: Option<String>,
    /// Its body.
    pub body: Bytes,
    /// Its sequence in the stream; 0 if unknown.
    pub sequence: u64,
    /// When the broker stored it, if it says so.
    pub published_at: Option<Timestamp>,
    /// The trace that it belongs to, if it names one that is sampled.
    pub context: Option<Context>,
    /// Number of messages that the consumer has yet to deliver after this one.
    pub pending: u64,
    /// Acknowledges it. `None` if no acknowledgement is expected.
    pub ack: Option<Box<dyn AckHandle>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Delivery");
        debug.field("subject", &self.subject).field("sequence", &self.sequence);
        debug.finish_non_exhaustive()
    }
}

/// The positions of a stream and its consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// Identifies the stream: a recreated one has another value.
    pub created: String,
    /// The stream's last sequence.
    pub last_sequence: u64,
    /// The last sequence delivered.
    pub delivered: u64,
    /// Every message up to this sequence is acknowledged or gone.
    pub ack_floor: u64,
    /// Number of messages delivered but not acknowledged.
    pub ack_pending: u64,
    /// Number of messages not delivered yet, as the broker counts them.
    pub pending: u64,
    /// What was altered at the broker and not repaired, as text. It costs time but loses nothing.
    pub altered: Option<String>,
    /// Whether opening the consumer recreated it or restored its settings, because it had been altered at the broker.
    pub mended: bool,
}

impl ConsumerState {
    /// The sequence up to which [`pending`](Self::pending) certainly counts. The stream is read after the consumer, so
    /// [`last_sequence`](Self::last_sequence) may already include messages that were published in between.
    pub(crate) fn counted_to(&self) -> u64 {
        self.last_sequence.min(self.delivered.saturating_add(self.pending))
    }

    /// Whether the consumer is beyond the end of its stream, because the stream went back to an older state. The next
    /// messages would then count as delivered.
    pub fn is_ahead(&self) -> bool {
        self.delivered.max(self.ack_floor) > self.last_sequence
    }
}

/// Why a consumer cannot be opened: there is no such stream, perhaps not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream {0} does not exist")]
pub struct NoStream(pub String);

/// Which consumer to open.
#[derive(Clone, Copy, Debug)]
pub struct Durable<'a> {
    /// The service that follows, shown to people.
    pub service: &'a str,
    /// The followed entity.
    pub entity: &'a EntityName,
    /// The identity of the read model. All of its replicas share one consumer, and no other read model uses it.
    pub read_model: &'a str,
    /// How long a delivery may take, and how many may be unacknowledged.
    pub settings: &'a Settings,
    /// Where CloudEvents tell of changes, instead of the owner's own stream.
    pub events: Option<&'a CloudEvents>,
}

/// A connection to a broker.
pub trait Source: Send + Sync + 'static {
    /// Finds the stream, which must exist ([`NoStream`] if it does not), and finds or creates the read model's consumer. If the
    /// consumer was altered, its settings are restored; if it may have skipped messages, it is recreated.
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>>;

    /// The number of connections made so far; it changes whenever the connection was lost and made again.
    fn connections(&self) -> watch::Receiver<u64>;

    /// Whether the connection is up right now.
    fn is_connected(&self) -> bool;

    /// The broker's last error.
    fn last_error(&self) -> Option<String>;

    /// Waits until everything written so far has been sent.
    fn flush(&self) -> Asking<'_, ()>;
}

/// A durable consumer of one entity's stream, shared by all replicas of a service.
pub trait Consumer: Send + Sync {
    /// Its positions when it was opened.
    fn opened(&self) -> &ConsumerState;

    /// Its positions now. An error if it has been altered or replaced by another consumer since it was opened; it must
    /// then be opened again.
    fn state(&self) -> Asking<'_, ConsumerState>;

    /// The messages that are delivered to this replica from now on.
    fn deliveries(&self) -> Asking<'_, Deliveries>;

    /// Every message from `sequence` on, once more, without acknowledgements. Ends after the newest.
    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries>;

    /// Messages published from now on, bypassing the consumer and shared among its replicas. Any of them may be
    /// lost.
    fn fresh(&self) -> Asking<'_, Deliveries>;
}
