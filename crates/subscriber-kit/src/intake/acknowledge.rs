//! Acknowledgements, held back from the arrival of a message until its key is durable.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_runtime::mutated;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for a broker that accepts nothing because it is unreachable. Acknowledgements that are not
/// sent by then are dropped, and the messages are redelivered.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The future of sending an acknowledgement.
pub type Sending<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The port through which a message is acknowledged. Losing an acknowledgement is harmless: the message is
/// redelivered.
pub trait AckHandle: Send + Sync {
    /// Acknowledges the message: it is handled.
    fn ack(&self) -> Sending<'_>;
    /// Tells the broker that work on the message is in progress, so that it does not redeliver it yet.
    fn progress(&self) -> Sending<'_>;
}

/// An acknowledgement that is held back.
///
/// It names its message by sequence and is only valid in its own session: after a broker has gone back to an
/// older state, another message gets the same sequence and would count as handled.
#[derive(Clone)]
pub(crate) struct Held {
    handle: Arc<dyn AckHandle>,
    session: CancellationToken,
    pub(crate) touched: Instant,
}

impl Held {
    /// `session` is cancelled when the session ends.
    pub(crate) fn new(handle: Box<dyn AckHandle>, session: &CancellationToken) -> Self {
        Self { handle: handle.into(), session: session.clone(), touched: Instant::now() }
    }

    pub(crate) async fn ack(self) {
        if self.is_good() {
            self.handle.ack().await;
        }
    }

    pub(crate) async fn progress(&mut self) {
        if self.is_good() {
            self.handle.progress().await;
        }
        self.touched = Instant::now();
    }

    fn is_good(&self) -> bool {
        mutated!(AcknowledgementOutlivesItsSession: !self.session.is_cancelled() => true)
    }
}

/// Acknowledges these messages.
pub(crate) async fn ack_all(held: Vec<Held>) {
    let all = async {
        for held in held {
            held.ack().await;
        }
    };
    if timeout(MAX_WAIT, all).await.is_err() {
        tracing::debug!("the broker is unreachable: handled messages will be redelivered");
    }
}

/// Tells the broker that these messages, which have waited for long, are not lost.
pub(crate) async fn progress_all(held: impl Iterator<Item = &mut Held>) {
    let all = async {
        for held in held {
            held.progress().await;
        }
    };
    if timeout(MAX_WAIT, all).await.is_err() {
        tracing::debug!("the broker is unreachable: waiting messages will be redelivered");
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("touched", &self.touched).finish_non_exhaustive()
    }
}

/// Counts work without a message at the broker whose completion matters all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Countdown(Arc<AtomicUsize>);

impl Countdown {
    /// Adds one to wait for.
    pub(crate) fn handle(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted { left: self.0.clone(), said: AtomicBool::new(false) }
    }

    pub(crate) fn left(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Counts down, once, when acknowledged.
#[derive(Debug)]
pub(crate) struct Counted {
    left: Arc<AtomicUsize>,
    said: AtomicBool,
}

impl AckHandle for Counted {
    fn ack(&self) -> Sending<'_> {
        if !self.said.swap(true, Relaxed) {
            self.left.fetch_sub(1, Relaxed);
        }
        Box::pin(std::future::ready(()))
    }

    fn progress(&self) -> Sending<'_> {
        Box::pin(std::future::ready(()))
    }
}
