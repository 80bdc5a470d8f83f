//! A NATS connection that reports connects, reconnects and errors.
//!
//! Permission violations reach a NATS client as timeouts plus an asynchronous error; without the
//! callback installed here they would look like a hang.

mod login;
pub mod reading;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use async_nats::{Client, Event, jetstream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::BoxError;
use login::Way;
pub use login::{LOGIN_VARIABLES, NatsArgs};

/// Longest wait for the server's answer to a request or an acknowledgement.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Most publishes that wait for an acknowledgement at a time.
pub const MAX_ACKS_IN_FLIGHT: usize = 4_000;
/// Longest pause between attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// A connection to NATS. Cloning is cheap and shares the connection.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The plain client.
    pub client: Client,
    /// JetStream on it.
    pub jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
    last_error: Arc<Mutex<Option<String>>>,
}

/// Why there is no connection. Only unusable settings cause these errors: for a server that is down, or rejects
/// the credentials, the program keeps trying.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not a URL of a NATS server.
    #[error("NATS_URL: {0}")]
    Url(String),
    /// The settings contradict each other.
    #[error("NATS: {0}")]
    Settings(String),
    /// More than one kind of credentials is given.
    #[error(
        "NATS: more than one of user, token, credentials file and NKey is given: give only one"
    )]
    Ambiguous,
    /// A file cannot be used.
    #[error("{variable}: {}", path.display())]
    File {
        /// The setting that names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The client cannot be created.
    #[error("NATS_URL: cannot connect to {url}")]
    Connect {
        /// The server, without credentials.
        url: String,
        /// The cause.
        #[source]
        source: async_nats::ConnectError,
    },
}

/// An error, with what the server reported before it.
#[derive(Debug, thiserror::Error)]
#[error("the broker said: {said}")]
struct Explained {
    said: String,
    #[source]
    source: BoxError,
}

/// The subject that replies to a client of this name begin with. What a subject cannot contain becomes `_`: with a space or a
/// wildcard in it, no reply would ever arrive.
pub fn inbox_prefix(name: &str) -> String {
    let unfit = |c: char| c.is_whitespace() || c.is_control() || "*>".contains(c);
    format!("_INBOX_{}", name.replace(unfit, "_"))
}

impl Broker {
    /// Connects to the server at `url`, which may contain credentials, as `name`. Returns at once even if the
    /// server is down, and keeps trying for as long as the program runs.
    pub async fn connect(url: &str, name: &str) -> Result<Self, BrokerError> {
        Self::connect_with(&NatsArgs::at(url), name).await
    }

    /// [`connect`](Self::connect) with the credentials that the environment names, such as `NATS_NKEY_FILE`.
    pub async fn connect_as_set(url: &str, name: &str) -> Result<Self, BrokerError> {
        let way = NatsArgs::of_environment(url)?.way()?;
        // Without credentials it is a guest, who may not receive what is for the operator.
        let inbox = if way.is_anonymous() { "_INBOX".to_owned() } else { inbox_prefix(name) };
        Self::connect_by(way, name, inbox).await
    }

    /// [`connect`](Self::connect) with other credentials.
    pub async fn connect_with(args: &NatsArgs, name: &str) -> Result<Self, BrokerError> {
        Self::connect_by(args.way()?, name, inbox_prefix(name)).await
    }

    async fn connect_by(way: Way, name: &str, inbox: String) -> Result<Self, BrokerError> {
        let (counter, connections) = watch::channel(0u64);
        let last_error = Arc::new(Mutex::new(None));
        let seen = last_error.clone();
        let client = way
            .options()
            .name(name)
            // This allows permissions that give each service access to its own reply subjects only.
            .custom_inbox_prefix(inbox)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|attempt| {
                (Duration::from_millis(20) * (1 << attempt.min(6))).min(MAX_RECONNECT_DELAY)
            })
            .request_timeout(Some(REQUEST_TIMEOUT))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        // Earlier errors do not apply to this connection.
                        *seen.lock() = None;
                        counter.send_modify(|n| *n += 1);
                    }
                    Event::ServerError(error) => note(&seen, error.to_string()),
                    Event::ClientError(error) => note(&seen, error.to_string()),
                    other => tracing::debug!(event = %other, "nats"),
                }
                async {}
            })
            .connect(&way.url)
            .await
            .map_err(|source| BrokerError::Connect { url: way.url.clone(), source })?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(MAX_ACKS_IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Self { client, jetstream, connections, last_error })
    }

    /// The number of connections made: changes at each reconnect.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Whether the connection is up at this moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The last error that the server reported on this connection, for example a permission violation.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// An error, preceded by the server's own, if it reported one: a denied request
    /// looks like an unanswered one.
    pub fn explain(&self, error: impl Into<BoxError>) -> BoxError {
        let source = error.into();
        match self.last_error() {
            Some(said) => Explained { said, source }.into(),
            None => source,
        }
    }
}

/// An outage repeats the same error at every attempt: only a new error is a warning.
fn note(last: &Mutex<Option<String>>, error: String) {
    let mut last = last.lock();
    if last.as_ref() == Some(&error) {
        tracing::debug!(%error, "nats reported the same error again");
    } else {
        tracing::warn!(%error, "nats reported an error");
        *last = Some(error);
    }
}
