//! The port to the stream that holds an entity's notifications: JetStream in production, a simulation in
//! tests.
//!
//! Every implementation must guarantee, since the relay relies on it:
//! - A message replaces the previous one on its subject.
//! - [`Sink::publish`] returns the message's sequence; later messages have higher ones.
//! - A failed publish may have happened all the same, or may still happen.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use nudge_protocol::{EntityName, Timestamp};
use nudge_runtime::BoxError;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Most subjects that are looked up at a time: a nats-server accepts up to 1,024.
pub const MAX_SUBJECTS: usize = 1_000;

/// The future of a request to the broker.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// What the relay compares between two checks of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Distinguishes one incarnation of the stream from the next.
    pub created: String,
    /// The stream's last sequence.
    pub last_seq: u64,
    /// For how many subjects it holds a message. There are as many messages, except if the broker keeps several of one
    /// subject, which must not hide that one of another subject is missing.
    pub subjects: u64,
    /// The run of the server that keeps it. A restarted server has another one, since it may have lost what
    /// it had acknowledged. `None` where one server is not enough, as in a cluster.
    pub server: Option<String>,
    /// What is wrong with its configuration.
    pub altered: Option<Altered>,
    /// Whether it holds several messages of one subject although its limit is one. Only a single server can be asked: of
    /// several, one that is just replacing a message counts both.
    pub doubled: bool,
}

/// How the stream's configuration at the broker differs from the required one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// As text: `max_msgs is 20, not -1`.
    pub what: String,
    /// The part of it by which acknowledged notifications may be missing, or be stored elsewhere.
    pub loses: Option<String>,
}

/// A notification to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its subject, which names the key.
    pub subject: String,
    /// The value of its version header.
    pub version: String,
    /// Its body.
    pub body: Vec<u8>,
    /// Further headers, which describe it to others than subscribers.
    pub headers: Vec<(&'static str, String)>,
}

/// A message in the stream, whoever published it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// The value of its version header, if it has one.
    pub version: Option<String>,
    /// When the broker stored it, if it says so.
    pub published_at: Option<Timestamp>,
}

/// The newest messages on some subjects of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// The stream's last sequence at the time of the lookup, or later.
    pub last_seq: u64,
    /// The messages. A subject that is missing here has none.
    pub stored: Vec<Stored>,
}

/// Access to the stream of each entity.
pub trait Sink: Send + Sync + 'static {
    /// Describes the stream; creates it if it is missing.
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, StreamInfo>;

    /// Restores the stream's required configuration. Returns what cannot be restored, and why.
    fn mend<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Option<String>>;

    /// Publishes a message, and returns its sequence in the stream.
    fn publish<'a>(&'a self, entity: &'a EntityName, message: Message) -> Asking<'a, u64>;

    /// Reads the messages beyond a sequence, in order: at most `limit`, and
    /// none only if there are no more.
    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>>;

    /// Looks up the messages on these subjects, at most [`MAX_SUBJECTS`]. `None` if this
    /// broker cannot answer, or its answer cannot be trusted.
    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>>;

    /// The number of connections made: changes at each reconnect.
    fn connections(&self) -> watch::Receiver<u64>;

    /// Whether the connection is up at this moment.
    fn is_connected(&self) -> bool;
}

/// Where the relay of this process publishes, for whoever wants to look at the stream besides.
#[derive(Clone, Default)]
pub(crate) struct Outlet(Arc<Mutex<Option<Arc<dyn Sink>>>>);

impl Outlet {
    /// Notes where a relay publishes. The last one counts.
    pub(crate) fn set(&self, sink: Arc<dyn Sink>) {
        *self.0.lock() = Some(sink);
    }

    /// `None` if this process has no relay.
    pub(crate) fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.0.lock().clone()
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outlet").field(&self.sink().is_some()).finish()
    }
}
