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

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// Others are reading under all names that this reader has. A name becomes free when its reader is done or, if that
    /// has crashed, when the broker removes the consumer.
    #[error("all consumers named {0}-reading-… are in use: trying again")]
    Busy(String),
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
                Ok(consumer) => return Ok(Self { consumer, jetstream: jetstream.clone() }),
                Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ReadingError::Busy(reader.to_owned()))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (jetstream, info) = (self.jetstream.clone(), self.consumer.cached_info());
        let (name, stream) = (info.name.clone(), info.stream_name.clone());
        runtime.spawn(async move {
            // If this fails, the broker removes it a little later.
            let _ = jetstream.delete_consumer_from_stream(name, stream).await;
        });
    }
}
