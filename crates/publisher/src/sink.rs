//! The port to the stream that holds an entity's notifications: JetStream in production, simulated in
//! tests.
//!
//! What the relay relies on, and every implementation must keep:
//! - A message replaces the one that stood on its subject before.
//! - The sequence that [`Sink::publish`] answers is that message's place; later ones are higher.
//! - What fails may have happened all the same, and may still happen.

use std::{future::Future, pin::Pin};

use nudge_protocol::EntityName;
use nudge_runtime::BoxError;
use tokio::sync::watch;

/// Most subjects that are looked up at a time: a nats-server takes up to 1,024.
pub const MAX_SUBJECTS: usize = 1_000;

/// The future of a request to the broker.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// What the relay compares between two looks at the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Tells one incarnation of the stream from the next.
    pub created: String,
    /// The stream's last sequence.
    pub last_seq: u64,
    /// How many messages it holds.
    pub messages: u64,
    /// Which run of which server keeps it: another one once the server was started again, since it may have lost what
    /// it had acknowledged. None where one server's word is not enough, as in a cluster.
    pub server: Option<String>,
    /// What of it is not as it must be.
    pub altered: Option<Altered>,
}

/// What others have altered of the stream at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// In words: `max_msgs is 20, not -1`.
    pub what: String,
    /// Whether notifications that were acknowledged may not stand where they should.
    pub loses: bool,
}

/// A notification on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its subject, which names the key.
    pub subject: String,
    /// What its version header says.
    pub version: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// A message as it stands in the stream, whoever published it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// What its version header says, if it has one.
    pub version: Option<String>,
}

/// What stands on some subjects of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// The stream's last sequence when it was looked at, or later.
    pub last_seq: u64,
    /// The messages; for a subject that is missing here, there is none.
    pub stored: Vec<Stored>,
}

/// A way to the stream of each entity.
pub trait Sink: Send + Sync + 'static {
    /// Looks at the stream, and makes it when it is missing.
    fn ensure<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Standing>;

    /// Alters the stream back to what it must be. Answers with what cannot be altered back, and why.
    fn mend<'a>(&'a self, entity: &'a EntityName) -> Asking<'a, Option<String>>;

    /// Publishes, and answers with the sequence under which the message stands in the stream.
    fn publish<'a>(&'a self, entity: &'a EntityName, message: Message) -> Asking<'a, u64>;

    /// Reads what stands in the stream beyond a sequence, in order: at most `limit` messages, and
    /// none only when there are no more.
    fn beyond<'a>(
        &'a self,
        entity: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>>;

    /// Looks up what stands on these subjects, of which there are at most [`MAX_SUBJECTS`]. `None` when this
    /// broker cannot tell, or cannot be trusted to.
    fn look_up<'a>(
        &'a self,
        entity: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>>;

    /// Counts connections made: changes each time the link was lost and made again.
    fn connections(&self) -> watch::Receiver<u64>;

    /// Whether the link stands at this moment.
    fn is_connected(&self) -> bool;
}
