//! Temporary consumers that read a stream from a sequence on.
//!
//! Each reader has a few fixed names for them, because a permission at NATS covers a whole name or nothing: whoever may
//! pull from consumers with any name may also pull from those of others.

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    context::Context,
    stream::{ConsumerCreateStrictError, ConsumerCreateStrictErrorKind},
};
use nudge_protocol::subject;

use crate::BoxError;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// Others are reading under all names that this reader has. A name becomes free when its reader is done or, if that
    /// has crashed, when the broker removes the consumer.
    #[error("all consumers named {0}-reading-… are in use: trying again")]
    Busy(String),
    /// The broker removed the consumer because nobody pulled from it for long, and another reader has its name.
    #[error("the consumer with which the stream is read is another reader's now: reading again")]
    Replaced,
    /// The broker refuses a consumer.
    #[error(transparent)]
    Refused(#[from] ConsumerCreateStrictError),
}

/// A consumer that acknowledges nothing. Removed when dropped.
#[derive(Debug)]
pub struct Reading {
    /// The consumer.
    pub consumer: PullConsumer,
    jetstream: Context,
    /// How many of its messages were read.
    read: u64,
}

impl Reading {
    /// Begins to read a stream at a sequence. `reader` is what its consumers' names begin with; `config` says the rest.
    ///
    /// # Errors
    /// If every name is in use, or the broker refuses.
    pub async fn begin(
        jetstream: &Context,
        stream: &str,
        reader: &str,
        start_sequence: u64,
        config: pull::Config,
    ) -> Result<Self, ReadingError> {
        for name in subject::reading_names(reader) {
            // An equal consumer would count as this one, and each of two readers would get half of the messages.
            let unique = jetstream.client().new_inbox();
            let config = pull::Config {
                name: Some(name),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
                ack_policy: AckPolicy::None,
                metadata: [("nudge-reader".to_owned(), unique)].into(),
                ..config.clone()
            };
            match jetstream.create_consumer_strict_on_stream(config, stream).await {
                Ok(consumer) => {
                    return Ok(Self { consumer, jetstream: jetstream.clone(), read: 0 });
                }
                Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReadingError::Busy(reader.to_owned()))
    }

    /// Notes the next message, by its number among those of the consumer. Under the same name, another reader's consumer
    /// would deliver others, and each of the two would miss some.
    ///
    /// # Errors
    /// If it is not the next.
    pub fn read(&mut self, consumer_sequence: u64) -> Result<(), ReadingError> {
        self.read += 1;
        match consumer_sequence == self.read {
            true => Ok(()),
            false => Err(ReadingError::Replaced),
        }
    }

    /// How many messages are left, now.
    ///
    /// # Errors
    /// If the broker does not answer, or somebody else has read some of them.
    pub async fn left(&self) -> Result<u64, BoxError> {
        let info = self.consumer.get_info().await?;
        let is_ours = info.created == self.consumer.cached_info().created;
        match is_ours && info.delivered.consumer_sequence == self.read {
            true => Ok(info.num_pending),
            false => Err(ReadingError::Replaced.into()),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (jetstream, consumer) = (self.jetstream.clone(), self.consumer.clone());
        runtime.spawn(async move {
            let ours = consumer.cached_info();
            // If this fails, the broker removes it a little later.
            if consumer.get_info().await.is_ok_and(|found| found.created == ours.created) {
                let (name, stream) = (ours.name.clone(), ours.stream_name.clone());
                let _ = jetstream.delete_consumer_from_stream(name, stream).await;
            }
        });
    }
}
