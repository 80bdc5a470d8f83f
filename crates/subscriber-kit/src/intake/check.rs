//! Stores the position of intake in the read model, and checks that the read model still holds what it should.

use std::sync::atomic::Ordering::Relaxed;

use nudge_protocol::Timestamp;
use tokio::time::Instant;

use super::{Intake, Over, Session, source::ConsumerState};
use crate::read_model::replica::Looked;

impl Intake {
    /// Stores the position, and whether the first catch-up is complete. Returns the latter. `asked_at` is when the consumer
    /// was asked for `state`.
    pub(super) async fn check(
        &self,
        session: &mut Session,
        state: &ConsumerState,
        asked_at: Timestamp,
    ) -> Result<bool, Over> {
        self.progress.stream_pending.set(state.pending as i64);
        if let Some(more) = self.said.left_out() {
            tracing::warn!(entity = %self.entity, more, "there were more malformed messages than were logged");
        }
        // A denied acknowledgement causes no error here, but everything is redelivered forever.
        let said = self.source.last_error().filter(|_| state.ack_pending > 0);
        let said = said.map(|said| format!("intake: the broker said: {said}"));
        self.progress.set_intake_error(said);
        let floor = state.ack_floor;
        // Until the gap is handled, the old position remains the true one.
        let gap_closed = session.gap.left() == 0;
        let (mark, recent, at) = (&mut session.mark, self.recent.so_far(), Instant::now());
        let handled = gap_closed.then_some(floor);
        match self.replica.look(mark, handled, &self.recent, &recent, at.into_std()).await? {
            Looked::Moved => self.recent.forget(&recent),
            Looked::Same => {}
            Looked::Gone => return Err(Over::ReplicaGone),
            Looked::Lost => {
                // What was lost will be read again.
                self.recent.forget(&recent);
                return Err(Over::ReadModelReplaced);
            }
        }
        if gap_closed {
            self.progress.position.store(floor, Relaxed);
        }
        let left = state.pending + state.ack_pending + session.gap.left() as u64;
        self.progress.catch_up.note(left);
        let nothing_left = state.pending == 0 && state.ack_pending == 0;
        if nothing_left && gap_closed {
            self.progress.current_at.set(Some(asked_at));
        }
        // The first catch-up is complete at the sequence where the stream ended when the session began.
        let target = session.consumer.opened().last_sequence;
        let done = gap_closed && (floor >= target || nothing_left);
        if done && !self.progress.caught_up.load(Relaxed) {
            // Written first: what is said to be ready stays so after a restart.
            if !self.positions.caught_up(session.mark.consumer()).await? {
                self.recent.forget(&recent);
                return Err(Over::ReadModelReplaced);
            }
            self.progress.caught_up.store(true, Relaxed);
            tracing::info!(entity = %self.entity, "caught up");
        }
        Ok(self.progress.caught_up.load(Relaxed))
    }
}
