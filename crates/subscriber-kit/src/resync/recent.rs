//! The newest entities are compared every few seconds, beside everything: what was lost lately is found soon. The
//! owner finds them by their place in the stream, for which it has an index.

use nudge_protocol::{
    EntityId,
    digest::{Handled, RangeRow, RecentRequest},
};
use nudge_runtime::BoxError;
use tokio::time::{Instant, sleep};

use super::{
    Resync,
    difference::{Difference, Kind, differences, found_twice},
};
use crate::callback::owner_client::{FetchErrorKind, OwnerClient};

/// What the owner said last. It is asked again once the position has moved.
#[derive(Debug, Default)]
pub(super) struct Recent {
    next: Option<Instant>,
    handled: Option<Handled>,
    rows: Vec<RangeRow>,
}

impl Recent {
    /// The newest entities, as far as is known.
    pub(super) fn ids(&self) -> Vec<EntityId> {
        self.rows.iter().map(|row| row.id.clone()).collect()
    }
}

impl Resync {
    /// Compares the newest entities, if it is time.
    pub(super) async fn recent(&mut self) -> Result<(), BoxError> {
        if self.recent.next.is_some_and(|next| Instant::now() < next) || self.why_not().is_some() {
            return Ok(());
        }
        self.recent.next = Some(Instant::now() + self.settings.recent_interval);
        let first = self.newest_differences().await?;
        if first.is_empty() {
            return Ok(());
        }
        sleep(self.settings.confirm_after).await;
        // Asked again, so that what has changed since counts.
        self.recent.handled = None;
        let confirmed = found_twice(first, &self.newest_differences().await?);
        self.observe_new(&confirmed);
        let confirmed = self.unknown(confirmed).await?;
        self.note(confirmed.iter());
        self.repair(confirmed, Vec::new()).await
    }

    async fn newest_differences(&mut self) -> Result<Vec<Difference>, BoxError> {
        let Some(handled) = self.handled().await? else { return Ok(Vec::new()) };
        if self.recent.handled.as_ref() != Some(&handled) {
            let request = RecentRequest { handled: handled.clone() };
            match self.client.recent(&self.entity, &request).await {
                Ok(answer) => self.recent.rows = answer.rows.unwrap_or_default(),
                Err(error) if error.kind == FetchErrorKind::Misconfigured => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            }
            self.recent.handled = Some(handled);
        }
        let ours = self.rows.those(self.recent.rows.iter().map(|row| &row.id)).await?;
        let mut found = differences(&ours, &self.recent.rows);
        // How many would be removed shows only when everything is compared.
        found.retain(|one| !one.removes || one.kind == Kind::Lagging);
        Ok(found)
    }
}
