//! The service's metrics.

use std::sync::Arc;

use nudge_publisher::{Capturing, Publisher};
use nudge_runtime::{alerts::Alerts, auth::Admission, traces::Traces};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::domain::Effect;

/// Counters of this service. Cloning is cheap and shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 1], Counter>,
    rejected: Counter,
    unreadable: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            writes: Family::default(),
            rejected: Counter::default(),
            unreadable: Counter::default(),
        };
        // Each series is there from the start.
        for effect in [Effect::Created, Effect::Updated, Effect::Unchanged, Effect::Deleted] {
            metrics.wrote(effect, 0);
        }
        metrics
    }
}

impl Metrics {
    /// Counts completed writes.
    pub fn wrote(&self, effect: Effect, count: u64) {
        let effect = match effect {
            Effect::Created => "created",
            Effect::Updated => "updated",
            Effect::Unchanged => "unchanged",
            Effect::Deleted => "deleted",
        };
        self.writes.get_or_create(&[("effect", effect)]).inc_by(count);
    }

    /// Counts a line of an import that was rejected.
    pub fn rejected_line(&self) {
        self.rejected.inc();
    }

    /// Counts a row that was left out because it cannot be read.
    pub fn unreadable_row(&self) {
        self.unreadable.inc();
    }

    /// Everything that `/metrics` shows: these and the publisher's.
    pub fn registry(
        &self,
        publisher: &Publisher<Capturing>,
        alerts: &Alerts,
        traces: &Traces,
        admission: &Admission,
    ) -> Arc<Registry> {
        let mut registry = Registry::default();
        registry.register("store_info_writes", "Stores written, by effect", self.writes.clone());
        registry.register(
            "store_info_import_rejected_lines",
            "Lines of imports that were rejected; bad: many: the answer of the import says why",
            self.rejected.clone(),
        );
        registry.register(
            "store_info_unreadable_rows",
            "Times that a row was left out because it cannot be read; bad: any: the log names the row",
            self.unreadable.clone(),
        );
        publisher.register_metrics(&mut registry);
        alerts.register(&mut registry);
        traces.register(&mut registry);
        admission.register_metrics(&mut registry);
        Arc::new(registry)
    }
}
