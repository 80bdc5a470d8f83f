//! How one followed entity is doing: figures for `status` and `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use nudge_protocol::{EntityName, Timestamp};
use nudge_runtime::clock;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Live figures of one followed entity. Written by its tasks, read by `status` and `/metrics`.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) received: Counter,
    pub(crate) malformed: Counter,
    pub(crate) callbacks: Counter,
    pub(crate) asked: Counter,
    pub(crate) fetched: Counter,
    pub(crate) applied: Counter,
    pub(crate) ignored: Counter,
    pub(crate) retried: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) replaced: Counter,
    pub(crate) given_up: Counter,
    pub(crate) refilled: Counter,
    pub(crate) queued: Gauge,
    pub(crate) processing: Gauge,
    pub(crate) retrying: Gauge,
    pub(crate) parked: Gauge,
    pub(crate) dead_letters: Gauge,
    pub(crate) stream_pending: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) breaker_open: Gauge,
    pub(crate) lag: Histogram,
    /// The last lag measured, in microseconds.
    pub(crate) last_lag_micros: AtomicI64,
    /// When something was last applied or found up to date, in unix microseconds; 0 for never.
    pub(crate) last_progress: AtomicI64,
    /// Stream sequence up to which everything is handled.
    pub(crate) position: AtomicU64,
    /// When this subscriber was started.
    began: Timestamp,
    /// Whether the first catch-up of this read model is done.
    pub(crate) caught_up: AtomicBool,
    /// What last went wrong with callbacks and the read model.
    last_error: Mutex<Option<String>>,
    /// What is wrong with the way from the broker.
    intake_error: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        // 1 ms to about 30 s, then everything slower.
        let buckets = prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 16);
        Self {
            received: Counter::default(),
            malformed: Counter::default(),
            callbacks: Counter::default(),
            asked: Counter::default(),
            fetched: Counter::default(),
            applied: Counter::default(),
            ignored: Counter::default(),
            retried: Counter::default(),
            dead_lettered: Counter::default(),
            replaced: Counter::default(),
            given_up: Counter::default(),
            refilled: Counter::default(),
            queued: Gauge::default(),
            processing: Gauge::default(),
            retrying: Gauge::default(),
            parked: Gauge::default(),
            dead_letters: Gauge::default(),
            stream_pending: Gauge::default(),
            connected: Gauge::default(),
            breaker_open: Gauge::default(),
            lag: Histogram::new(buckets),
            last_lag_micros: AtomicI64::new(0),
            last_progress: AtomicI64::new(0),
            position: AtomicU64::new(0),
            began: clock::now(),
            caught_up: AtomicBool::new(false),
            last_error: Mutex::new(None),
            intake_error: Mutex::new(None),
        }
    }

    /// Notes an error for `status`; `None` says that all is well again.
    pub(crate) fn set_error(&self, error: Option<String>) {
        *self.last_error.lock() = error;
    }

    /// The same of intake: what is applied meanwhile does not say that all is well there.
    pub(crate) fn set_intake_error(&self, error: Option<String>) {
        *self.intake_error.lock() = error;
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        let intake = self.intake_error.lock().clone();
        intake.or_else(|| self.last_error.lock().clone())
    }

    /// Whether what was changed at that time and is applied now is late by the time between: a first catch-up brings
    /// what was changed before anybody followed it.
    pub(crate) fn is_lag(&self, changed_at: Timestamp) -> bool {
        self.caught_up.load(Relaxed) || changed_at >= self.began
    }

    /// Notes that an entity was found at its owner's state.
    pub(crate) fn progressed(&self) {
        self.last_progress.store(clock::now().unix_micros(), Relaxed);
    }

    pub(crate) fn register(&self, registry: &mut Registry, entity: &EntityName) {
        let label = [("entity".into(), entity.to_string().into())];
        let registry = registry.sub_registry_with_labels(label.into_iter());
        for (name, help, counter) in [
            ("nudge_received", "Notifications received", &self.received),
            ("nudge_malformed", "Messages that were not as they should be", &self.malformed),
            ("nudge_callbacks", "Calls to the owner", &self.callbacks),
            ("nudge_asked", "Entities that the owner was asked for", &self.asked),
            ("nudge_fetched", "Entities that the owner answered", &self.fetched),
            ("nudge_applied", "States committed in the read model", &self.applied),
            ("nudge_ignored", "States that the read model had already", &self.ignored),
            ("nudge_retried", "Runs that must be tried again", &self.retried),
            ("nudge_dead_lettered", "Keys that became dead letters", &self.dead_lettered),
            (
                "nudge_read_model_replaced",
                "Times that the read model was found emptied or put back to an older copy",
                &self.replaced,
            ),
            (
                "nudge_given_up",
                "Keys that the owner did not know however often it was asked",
                &self.given_up,
            ),
            (
                "nudge_refilled",
                "Keys read again because another revision of the read model applied them",
                &self.refilled,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            ("nudge_queued", "Keys that wait for a run", &self.queued),
            ("nudge_processing", "Keys in a run", &self.processing),
            ("nudge_retrying", "Keys in memory whose last run failed", &self.retrying),
            (
                "nudge_parked",
                "Rows of the dead-letter table that retry by themselves",
                &self.parked,
            ),
            ("nudge_dead_letters", "Rows of the dead-letter table that do not", &self.dead_letters),
            (
                "nudge_stream_pending",
                "Messages that the broker has not delivered",
                &self.stream_pending,
            ),
            ("nudge_breaker_open", "1 while calls to the owner are stopped", &self.breaker_open),
            ("nudge_connected", "1 while notifications can arrive", &self.connected),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "nudge_convergence_lag_seconds",
            "Owner's commit to row applied",
            self.lag.clone(),
        );
    }
}
