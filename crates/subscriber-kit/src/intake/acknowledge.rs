//! Acknowledgements, held from the arrival of a message until its key is durable.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::jetstream::{AckKind, message::Acker};
use nudge_runtime::mutated;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for a broker that takes nothing more because it is away. What is not said by then is
/// not said at all: the messages come again.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The future of sending an acknowledgement.
pub type Sending<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The port that gives a message back to where it came from. Losing an acknowledgement is harmless:
/// the message comes again.
pub trait AckHandle: Send + Sync {
    /// The message is handled.
    fn ack(&self) -> Sending<'_>;
    /// The message is still being worked on: do not deliver it again yet.
    fn progress(&self) -> Sending<'_>;
}

/// An acknowledgement that is held.
///
/// It names its message by sequence, and is good for one session alone: a broker that went back to an
/// older state gives the same sequence to another message, which it would then take for handled.
#[derive(Clone)]
pub(crate) struct Held {
    handle: Arc<dyn AckHandle>,
    session: CancellationToken,
    pub(crate) touched: Instant,
}

impl Held {
    /// `session` is cancelled when it is over.
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

/// Says that these messages are handled.
pub(crate) async fn ack_all(held: Vec<Held>) {
    let all = async {
        for held in held {
            held.ack().await;
        }
    };
    if timeout(MAX_WAIT, all).await.is_err() {
        tracing::debug!("the broker is away: messages that are handled will come again");
    }
}

/// Says that these messages, which wait for long, are not forgotten.
pub(crate) async fn progress_all(held: impl Iterator<Item = &mut Held>) {
    let all = async {
        for held in held {
            held.progress().await;
        }
    };
    if timeout(MAX_WAIT, all).await.is_err() {
        tracing::debug!("the broker is away: messages that wait will come again");
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("touched", &self.touched).finish_non_exhaustive()
    }
}

impl AckHandle for Acker {
    fn ack(&self) -> Sending<'_> {
        Box::pin(send(self, AckKind::Ack))
    }

    fn progress(&self) -> Sending<'_> {
        Box::pin(send(self, AckKind::Progress))
    }
}

async fn send(acker: &Acker, kind: AckKind) {
    if let Err(error) = acker.ack_with(kind).await {
        tracing::debug!(%error, "an acknowledgement was not sent; the message will come again");
    }
}

/// Counts what is still to be acknowledged: work that no broker waits for, but whose end matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Countdown(Arc<AtomicUsize>);

impl Countdown {
    /// One more to wait for.
    pub(crate) fn handle(&self) -> Counted {
        self.0.fetch_add(1, Relaxed);
        Counted { left: self.0.clone(), said: AtomicBool::new(false) }
    }

    pub(crate) fn left(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// Counts down once, when it is acknowledged.
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
