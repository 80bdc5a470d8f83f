//! How far intake has got: recorded in the read model, which is looked at for what it should hold.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::{Intake, Over, Session, source::ConsumerState};
use crate::read_model::replica::Looked;

impl Intake {
    /// Records the position, and whether the first catch-up is done. Returns the latter.
    pub(super) async fn check(
        &self,
        session: &mut Session,
        state: &ConsumerState,
    ) -> Result<bool, Over> {
        self.progress.stream_pending.set(state.pending as i64);
        if let Some(more) = self.said.left_out() {
            tracing::warn!(entity = %self.entity, more, "malformed messages, not all of them logged");
        }
        // An acknowledgement that is denied fails nowhere here. All comes again, forever.
        let said = self.source.last_error().filter(|_| state.ack_pending > 0);
        let said = said.map(|said| format!("intake: the broker said: {said}"));
        self.progress.set_intake_error(said);
        let floor = state.ack_floor;
        // Until the gap is handled, the old position is the true one.
        let gap_closed = session.gap.left() == 0;
        let (mark, recent, at) = (&mut session.mark, self.recent.so_far(), Instant::now());
        let handled = gap_closed.then_some(floor);
        match self.replica.look(mark, handled, &self.recent, &recent, at.into_std()).await? {
            Looked::Moved => self.recent.forget(&recent),
            Looked::Same => {}
            Looked::Gone => return Err(Over::ReplicaGone),
            Looked::Lost => {
                // What was lost comes again.
                self.recent.forget(&recent);
                return Err(Over::ReadModelReplaced);
            }
        }
        if gap_closed {
            self.progress.position.store(floor, Relaxed);
        }
        let nothing_left = state.pending == 0 && state.ack_pending == 0;
        // What the first catch-up must reach is where the stream ended when the session began.
        let target = session.consumer.opened().last_sequence;
        let done = gap_closed && (floor >= target || nothing_left);
        if done && !self.progress.caught_up.swap(true, Relaxed) {
            self.positions.caught_up(session.mark.consumer()).await?;
            tracing::info!(entity = %self.entity, "caught up");
        }
        Ok(self.progress.caught_up.load(Relaxed))
    }
}
