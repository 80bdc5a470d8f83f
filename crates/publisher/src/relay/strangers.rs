//! Entities that the stream tells of and the owner does not know.

use nudge_runtime::BoxError;

use super::Relay;
use crate::sink::Standing;

impl Relay {
    /// Counts them, at least: the stream holds one message for each entity, so it never has more of them than the
    /// log has rows. When it does, the owner's database was lost, or somebody else publishes. Nothing mends that but
    /// a comparison of the copies with the owner: whoever follows it goes on to show what it does not know.
    ///
    /// The log is counted on each connection, and again and again only while there is something to see.
    pub(super) async fn count_strangers(&mut self, now: &Standing) -> Result<(), BoxError> {
        let before = self.metrics.strangers.get();
        if self.standing.is_some() && before == 0 {
            return Ok(());
        }
        let known = self.log.count_entities().await?;
        let strangers = i64::try_from(now.messages.saturating_sub(known)).unwrap_or(i64::MAX);
        self.metrics.strangers.set(strangers);
        if strangers > 0 && before == 0 {
            let entity = self.log.entity();
            tracing::warn!(
                %entity,
                strangers,
                known,
                "the stream tells of entities that this owner does not know: was its database lost? Its subscribers \
                 still show them"
            );
        }
        Ok(())
    }
}
