//! A message on its way to a program.

use nudge_runtime::BoxError;
use nudge_subscriber_kit::source::Delivery;
use tokio::sync::mpsc;

use crate::broker::Stored;

/// Where deliveries go.
pub(crate) type Sender = mpsc::Sender<Result<Delivery, BoxError>>;

/// With nothing to acknowledge.
pub(crate) fn delivery(sequence: u64, stored: Stored, pending: u64) -> Delivery {
    let Stored { subject, version, body } = stored;
    Delivery {
        subject,
        version,
        body,
        sequence,
        published_at: None,
        context: None,
        pending,
        ack: None,
    }
}
