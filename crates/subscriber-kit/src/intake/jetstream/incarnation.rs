//! A consumer as it was when it was opened, and acknowledgements to it alone.
//!
//! An acknowledgement names its consumer and a sequence. If this program stood still for so long that another read model
//! took over the name, it would acknowledge a message of the other, which that may not have handled.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    AckKind,
    consumer::{Info, PullConsumer},
    message::Acker,
};
use nudge_runtime::BoxError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::intake::acknowledge::{AckHandle, Sending};

/// See the module documentation.
pub(super) struct Incarnation {
    consumer: PullConsumer,
    seen: Mutex<Instant>,
    believed_for: Duration,
    /// Held while it is looked at for acknowledgements: when that began, and whether it was there.
    looked: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Incarnation {
    /// This consumer, which has just been seen. It is believed to be the same for so long after it was last seen, which
    /// must be less than the time after which another read model may take its name over.
    pub(super) fn of(consumer: PullConsumer, believed_for: Duration) -> Arc<Self> {
        Arc::new(Self {
            consumer,
            seen: Mutex::new(Instant::now()),
            believed_for,
            looked: Default::default(),
        })
    }

    pub(super) fn consumer(&self) -> &PullConsumer {
        &self.consumer
    }

    /// What the broker says about it. An error if it is another consumer now.
    pub(super) async fn look(&self) -> Result<Info, BoxError> {
        let asked = Instant::now();
        let info = self.consumer.get_info().await?;
        if info.created != self.consumer.cached_info().created {
            return Err("the consumer was recreated by someone else".into());
        }
        *self.seen.lock() = asked;
        Ok(info)
    }

    /// However many acknowledgements ask at once, the broker is asked by one of them.
    async fn is_still_there(&self) -> bool {
        let asked = Instant::now();
        let is_believed = || self.seen.lock().elapsed() < self.believed_for;
        if is_believed() {
            return true;
        }
        let mut looked = self.looked.lock().await;
        if is_believed() {
            return true;
        }
        match *looked {
            // It was not, when somebody else looked meanwhile.
            Some((began, was_there)) if began >= asked => was_there,
            _ => {
                let began = Instant::now();
                let is_there = self.look().await.is_ok();
                *looked = Some((began, is_there));
                is_there
            }
        }
    }

    /// The acknowledgement of a message that it has delivered.
    pub(super) fn acks(self: &Arc<Self>, acker: Acker) -> Box<dyn AckHandle> {
        Box::new(Ack { incarnation: self.clone(), acker })
    }
}

struct Ack {
    incarnation: Arc<Incarnation>,
    acker: Acker,
}

impl Ack {
    async fn send(&self, kind: AckKind) {
        if !self.incarnation.is_still_there().await {
            tracing::debug!("the consumer is another's now: nothing is acknowledged");
        } else if let Err(error) = self.acker.ack_with(kind).await {
            tracing::debug!(%error, "an acknowledgement was not sent: the message will be redelivered");
        }
    }
}

impl AckHandle for Ack {
    fn ack(&self) -> Sending<'_> {
        Box::pin(self.send(AckKind::Ack))
    }

    fn progress(&self) -> Sending<'_> {
        Box::pin(self.send(AckKind::Progress))
    }
}
