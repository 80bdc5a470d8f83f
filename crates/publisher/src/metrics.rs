//! The relay's metrics.

use nudge_protocol::EntityName;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::change_log::ChangeLog;

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) published: Counter,
    pub(crate) errors: Counter,
    pub(crate) republished: Counter,
    pub(crate) renewed: Counter,
    pub(crate) pending: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) broker_connected: Gauge,
    /// 1 while the stream is not as it must be.
    pub(crate) altered: Gauge,
    pub(crate) comparing: Gauge,
    pub(crate) unreadable: Counter,
    /// Least number of notifications in the stream about entities that the log does not know.
    pub(crate) strangers: Gauge,
    /// Tombstones that were made for such entities and that no operator has flagged.
    pub(crate) stranger_tombstones: Gauge,
}

/// The health of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RelayHealth {
    /// Whether the stream was reachable at the last try, and accepted what was published.
    pub connected: bool,
    /// Whether the broker was reachable then.
    pub broker_connected: bool,
    /// Whether the stream is not as it must be, and that cannot be mended: it was altered at the broker, or holds several
    /// messages of one subject.
    pub altered: bool,
    /// Changes that are not yet in the stream.
    pub pending: u64,
    /// Notifications published since the start.
    pub published: u64,
    /// Whether the stream is still being compared with the change log.
    pub comparing: bool,
    /// Rows removed from the change log since the start, because their IDs are invalid.
    pub unreadable: u64,
    /// Least number of entities that the stream holds and the owner does not know.
    pub strangers: u64,
    /// Tombstones of IDs that the owner has no record of, made because the stream holds them, and that no operator
    /// has flagged yet.
    pub stranger_tombstones: u64,
}

impl Metrics {
    /// Counts what is pending. When the database fails, what was counted last stands.
    pub(crate) async fn note_pending(&self, log: &ChangeLog) {
        if let Ok(count) = log.count_pending().await {
            self.pending.set(count as i64);
        }
    }

    pub(crate) fn health(&self) -> RelayHealth {
        RelayHealth {
            connected: self.connected.get() == 1,
            broker_connected: self.broker_connected.get() == 1,
            altered: self.altered.get() == 1,
            pending: u64::try_from(self.pending.get()).unwrap_or(0),
            published: self.published.get(),
            comparing: self.comparing.get() == 1,
            unreadable: self.unreadable.get(),
            strangers: u64::try_from(self.strangers.get()).unwrap_or(0),
            stranger_tombstones: u64::try_from(self.stranger_tombstones.get()).unwrap_or(0),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry, entity: &EntityName) {
        let label = [("entity".into(), entity.to_string().into())];
        let registry = registry.sub_registry_with_labels(label.into_iter());
        registry.register(
            "nudge_relay_published",
            "Notifications published and acknowledged",
            self.published.clone(),
        );
        registry.register("nudge_relay_errors", "Publishes that failed", self.errors.clone());
        registry.register(
            "nudge_relay_repairs",
            "Times that rows were made pending again because the stream may have lost them",
            self.republished.clone(),
        );
        registry.register(
            "nudge_relay_renewed",
            "Entities that got a fresh version because the owner was restored from a backup",
            self.renewed.clone(),
        );
        registry.register(
            "nudge_relay_pending",
            "Changes that are not yet in the stream",
            self.pending.clone(),
        );
        registry.register(
            "nudge_relay_connected",
            "1 while the stream is reachable and accepts what is published",
            self.connected.clone(),
        );
        registry.register(
            "nudge_relay_broker_connected",
            "1 while the broker is reachable",
            self.broker_connected.clone(),
        );
        registry.register(
            "nudge_relay_stream_altered",
            "1 while the stream is not as it must be, and that cannot be mended: altered at the broker, or with several messages of one subject",
            self.altered.clone(),
        );
        registry.register(
            "nudge_relay_comparing",
            "1 while the stream is compared with the change log, to find lost notifications",
            self.comparing.clone(),
        );
        registry.register(
            "nudge_relay_unreadable",
            "Rows removed from the change log because their IDs are invalid, such as text that is not UTF-8",
            self.unreadable.clone(),
        );
        registry.register(
            "nudge_relay_strangers",
            "Least number of entities that the stream holds and the owner does not know: its database was lost, or \
             somebody else publishes",
            self.strangers.clone(),
        );
        registry.register(
            "nudge_relay_stranger_tombstones",
            "Tombstones of IDs that the owner has no record of, made because the stream holds them; those that an \
             operator has flagged as never existed are left out",
            self.stranger_tombstones.clone(),
        );
    }
}
