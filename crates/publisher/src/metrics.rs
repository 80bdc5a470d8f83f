//! The relay's metrics.

use nudge_protocol::{EntityName, Timestamp, Version};
use nudge_runtime::{metrics::Age, tasks::DeadTasks};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::change_log::ChangeLog;

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) published: Counter,
    pub(crate) errors: Counter,
    /// Publishes without an acknowledgement.
    pub(crate) unacknowledged: Counter,
    /// How often the stream's configuration was restored.
    pub(crate) mended: Counter,
    pub(crate) republished: Counter,
    pub(crate) renewed: Counter,
    pub(crate) pending: Gauge,
    pub(crate) oldest_pending: Age,
    pub(crate) dead_tasks: DeadTasks,
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
        if let Ok((count, oldest)) = log.count_pending().await {
            self.pending.set(count as i64);
            self.note_oldest(oldest);
        }
    }

    /// Notes the oldest version that is pending. A version is the time of its change in microseconds, unless it had to
    /// exceed a higher one.
    pub(crate) fn note_oldest(&self, oldest: Option<Version>) {
        self.oldest_pending
            .since(oldest.map(|oldest| Timestamp::from_unix_micros(oldest.get() as i64)));
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
        for (name, help, counter) in [
            (
                "nudge_relay_published",
                "Notifications published and acknowledged; bad: no rise while changes are pending",
                &self.published,
            ),
            (
                "nudge_relay_errors",
                "Rounds of the relay that failed, because of the broker or the database; bad: a steady rise: the log names the error",
                &self.errors,
            ),
            (
                "nudge_relay_publish_failures",
                "Publishes that were not acknowledged, and are repeated; bad: a steady rise: the stream refuses messages or the broker is slow",
                &self.unacknowledged,
            ),
            (
                "nudge_relay_repairs",
                "Times that rows were made pending again because the stream may have lost them; bad: any: the broker lost what it had acknowledged",
                &self.republished,
            ),
            (
                "nudge_relay_stream_mended",
                "Times that the stream's configuration was restored because it was altered at the broker; bad: any: somebody else manages it",
                &self.mended,
            ),
            (
                "nudge_relay_renewed",
                "Entities that got a fresh version because the owner was restored from a backup; bad: any that nobody planned",
                &self.renewed,
            ),
            (
                "nudge_relay_unreadable",
                "Rows removed from the change log because their IDs are invalid, such as text that is not UTF-8; bad: any: subscribers never learn of those entities",
                &self.unreadable,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "nudge_relay_pending",
                "Changes that are not yet in the stream; bad: a steady rise",
                &self.pending,
            ),
            (
                "nudge_relay_connected",
                "1 while the stream is reachable and accepts what is published; bad: 0",
                &self.connected,
            ),
            (
                "nudge_relay_broker_connected",
                "1 while the broker is reachable; bad: 0",
                &self.broker_connected,
            ),
            (
                "nudge_relay_stream_altered",
                "1 while the stream is not as it must be, and that cannot be mended: altered at the broker, or with several messages of one subject; bad: 1",
                &self.altered,
            ),
            (
                "nudge_relay_comparing",
                "1 while the stream is compared with the change log, to find lost notifications",
                &self.comparing,
            ),
            (
                "nudge_relay_strangers",
                "Least number of entities that the stream holds and the owner does not know; bad: any: its database was lost, or somebody else publishes",
                &self.strangers,
            ),
            (
                "nudge_relay_stranger_tombstones",
                "Tombstones of IDs that the owner has no record of, made because the stream holds them; those that an operator has flagged as never existed are left out; bad: any",
                &self.stranger_tombstones,
            ),
            (
                "nudge_relay_dead_tasks",
                "Tasks of this owner that have panicked; bad: any: their work is not done until a restart",
                &self.dead_tasks.count(),
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "nudge_relay_oldest_pending_seconds",
            "How long ago the oldest change was made that is not yet in the stream; bad: a minute or more",
            self.oldest_pending.clone(),
        );
    }
}
