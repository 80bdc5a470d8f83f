//! Fresh notifications, past a backlog.

use futures_util::StreamExt;
use nudge_runtime::BoxError;
use nudge_runtime::broker::reading::ReadingError;

use super::{
    Intake, Over, Session,
    source::{ConsumerState, Deliveries, Delivery},
};
use crate::work::run::Lane;

/// Most messages that are read past the backlog because they were published since the last check; of more, the newest.
const MAX_SINCE_LAST_CHECK: u64 = 1_000;

impl Intake {
    /// A key that keeps changing moves to the end of the stream each time, so during a backlog the durable consumer
    /// would not reach it until the changes stop. So during a backlog, fresh notifications are also received as they
    /// are published.
    pub(super) async fn follow_fresh(
        &self,
        session: &mut Session,
        fresh: &mut Option<Deliveries>,
        state: &ConsumerState,
    ) -> Result<(), Over> {
        let bypassed = session.withheld.is_bypassed();
        let stuck = state.ack_pending as i64 >= self.settings.max_ack_pending;
        let behind = state.pending > self.settings.max_backlog_messages
            || (stuck && state.pending > 0)
            || bypassed;
        match (behind, fresh.is_some()) {
            (true, false) => {
                *fresh = Some(session.consumer.fresh().await?);
                self.read_since_last_check(session).await?;
            }
            (false, true) if state.pending == 0 => *fresh = None,
            _ => {}
        }
        session.counted_to = session.counted_to.max(state.counted_to());
        Ok(())
    }

    /// Reads what was published since the last check, when nobody knew yet that it would have to wait. The durable
    /// consumer brings all of it, too.
    async fn read_since_last_check(&self, session: &Session) -> Result<(), Over> {
        let last = session.consumer.state().await?.last_sequence;
        let first = session.counted_to.max(last.saturating_sub(MAX_SINCE_LAST_CHECK)) + 1;
        if first > last {
            return Ok(());
        }
        let mut again = match session.consumer.again_from(first).await {
            // Others of this service read already. The durable consumer brings it, only later.
            Err(error) if is_busy(&*error) => return Ok(()),
            again => again?,
        };
        while let Some(delivery) = again.next().await {
            if self.queue.capacity() == 0 {
                break;
            }
            self.hand_over(&delivery?, Lane::Fresh, None).await?;
        }
        Ok(())
    }
}

fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ReadingError::Busy(_)))
}

pub(super) async fn next(fresh: &mut Option<Deliveries>) -> Option<Result<Delivery, BoxError>> {
    match fresh {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}
