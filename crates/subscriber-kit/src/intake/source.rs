//! The port to a broker's notifications of one entity: JetStream in production, simulated in tests.
//!
//! What intake relies on, and every implementation must keep:
//! - A delivery that is not acknowledged comes again, unless a newer message has taken its place.
//! - [`Standing::ack_floor`] is a sequence up to which every message is acknowledged or gone.
//! - Sequences rise; another incarnation of the stream has another [`Standing::created`].

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use nudge_protocol::EntityName;
use nudge_runtime::BoxError;
use tokio::sync::watch;

pub use crate::intake::acknowledge::{AckHandle, Sending};
use crate::settings::Settings;

/// The future of a request to the broker.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Messages as they come. An error, or its end, ends the session.
pub type Deliveries = Pin<Box<dyn Stream<Item = Result<Delivery, BoxError>> + Send>>;

/// A message.
pub struct Delivery {
    /// Its subject, which names the key.
    pub subject: String,
    /// Its version header, as it stands there.
    pub version: Option<String>,
    /// Its body.
    pub body: Bytes,
    /// Its place in the stream; 0 when that is not known.
    pub sequence: u64,
    /// How many messages the consumer has still to deliver after this one.
    pub pending: u64,
    /// Gives it back. None when nobody waits for that.
    pub ack: Option<Box<dyn AckHandle>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Delivery");
        debug.field("subject", &self.subject).field("sequence", &self.sequence);
        debug.finish_non_exhaustive()
    }
}

/// How far a stream and its consumer are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Tells one incarnation of the stream from the next.
    pub created: String,
    /// The stream's last sequence.
    pub last_sequence: u64,
    /// The last sequence that was delivered.
    pub delivered: u64,
    /// Everything up to this sequence is acknowledged or gone.
    pub ack_floor: u64,
    /// Messages delivered and not acknowledged.
    pub ack_pending: u64,
    /// Messages not delivered yet, as the broker counts them.
    pub pending: u64,
    /// What somebody has altered at the broker and stays so, in words. It costs time and loses nothing.
    pub altered: Option<String>,
}

impl Standing {
    /// Whether the consumer is beyond the end of its stream, which went back to an older state: what is published
    /// next would count as delivered.
    pub fn is_ahead(&self) -> bool {
        self.delivered.max(self.ack_floor) > self.last_sequence
    }
}

/// Which consumer to open.
#[derive(Clone, Copy, Debug)]
pub struct Durable<'a> {
    /// Who follows: for people.
    pub service: &'a str,
    /// What is followed.
    pub entity: &'a EntityName,
    /// The consumer's name, shared by all replicas.
    pub name: &'a str,
    /// How long a delivery may take, and how many may be out.
    pub settings: &'a Settings,
}

/// A way to a broker.
pub trait Source: Send + Sync + 'static {
    /// Finds the stream, which must be there, and finds or makes the consumer. One that is not as it must be is
    /// mended: altered back, or made anew where it may have skipped messages.
    fn open<'a>(&'a self, durable: Durable<'a>) -> Asking<'a, Arc<dyn Consumer>>;

    /// Counts connections made: changes each time the link was lost and made again.
    fn connections(&self) -> watch::Receiver<u64>;

    /// Whether the link stands at this moment.
    fn is_connected(&self) -> bool;

    /// What the broker last complained about.
    fn last_error(&self) -> Option<String>;

    /// Waits until everything said so far is sent.
    fn flush(&self) -> Asking<'_, ()>;
}

/// A durable consumer of one entity's stream, shared by all replicas of a service.
pub trait Consumer: Send + Sync {
    /// How far it was when it was opened.
    fn opened(&self) -> &Standing;

    /// How far it is now. An error when it is not the consumer any more that was opened, or not as it must be:
    /// then it has to be opened again.
    fn standing(&self) -> Asking<'_, Standing>;

    /// What is delivered to this replica from now on.
    fn deliveries(&self) -> Asking<'_, Deliveries>;

    /// Every message from `sequence` on, once more, with nothing to acknowledge. Ends after the
    /// newest.
    fn again_from(&self, sequence: u64) -> Asking<'_, Deliveries>;

    /// What is published from now on, past the consumer, shared among its replicas. May lose any of
    /// it.
    fn fresh(&self) -> Asking<'_, Deliveries>;
}
