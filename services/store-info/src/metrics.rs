//! The service's metrics.

use std::sync::Arc;

use nudge_publisher::{Capturing, Publisher};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::domain::Effect;

/// Counters of this service. Cloning is cheap and shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 1], Counter>,
    rejected: Counter,
    unreadable: Counter,
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
    pub fn registry(&self, publisher: &Publisher<Capturing>) -> Arc<Registry> {
        let mut registry = Registry::default();
        registry.register("store_info_writes", "Stores written, by effect", self.writes.clone());
        registry.register(
            "store_info_import_rejected_lines",
            "Rejected lines of imports",
            self.rejected.clone(),
        );
        registry.register(
            "store_info_unreadable_rows",
            "Times that an unreadable row was left out",
            self.unreadable.clone(),
        );
        publisher.register_metrics(&mut registry);
        Arc::new(registry)
    }
}

/// The text form of the metrics.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("writing to a String cannot fail");
    text
}
