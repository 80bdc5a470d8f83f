//! Figures about one followed entity, for `status` and `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use nudge_protocol::{EntityName, Timestamp};
use nudge_runtime::clock;
use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::catching_up::CatchUp;

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
    pub(crate) contents_compared: Counter,
    pub(crate) compared: Counter,
    pub(crate) sweeps: Counter,
    /// By kind.
    pub(crate) differences: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) queued: Gauge,
    pub(crate) processing: Gauge,
    pub(crate) retrying: Gauge,
    pub(crate) parked: Gauge,
    pub(crate) dead_letters: Gauge,
    pub(crate) removals_waiting: Gauge,
    pub(crate) stream_pending: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) breaker_open: Gauge,
    pub(crate) lag: Histogram,
    /// The last lag measured, in microseconds.
    pub(crate) last_lag_micros: AtomicI64,
    /// When something was last applied or found up to date, in microseconds since the Unix epoch; 0 if never.
    pub(crate) last_progress: AtomicI64,
    /// When the stream was last seen to hold nothing that is not handled here, in microseconds since the Unix epoch; 0 if
    /// never.
    pub(crate) current_at: AtomicI64,
    /// The sequence up to which every message is handled.
    pub(crate) position: AtomicU64,
    /// When this subscriber was started.
    began: Timestamp,
    /// Whether the first catch-up of this read model is done.
    pub(crate) caught_up: AtomicBool,
    /// Whether it is optional, and its stream did not exist when this program looked for it.
    pub(crate) absent: AtomicBool,
    /// How far it is.
    pub(crate) catch_up: CatchUp,
    /// Whether a comparison of everything has found this read model equal to its owner.
    pub(crate) found_equal: AtomicBool,
    /// The last error of callbacks and the read model.
    last_error: Mutex<Option<String>>,
    /// The current error of intake.
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
            contents_compared: Counter::default(),
            compared: Counter::default(),
            sweeps: Counter::default(),
            differences: Family::default(),
            queued: Gauge::default(),
            processing: Gauge::default(),
            retrying: Gauge::default(),
            parked: Gauge::default(),
            dead_letters: Gauge::default(),
            removals_waiting: Gauge::default(),
            stream_pending: Gauge::default(),
            connected: Gauge::default(),
            breaker_open: Gauge::default(),
            lag: Histogram::new(buckets),
            last_lag_micros: AtomicI64::new(0),
            last_progress: AtomicI64::new(0),
            current_at: AtomicI64::new(0),
            position: AtomicU64::new(0),
            began: clock::now(),
            caught_up: AtomicBool::new(false),
            absent: AtomicBool::new(false),
            catch_up: CatchUp::default(),
            found_equal: AtomicBool::new(false),
            last_error: Mutex::new(None),
            intake_error: Mutex::new(None),
        }
    }

    /// Sets the error that `status` shows; `None` clears it.
    pub(crate) fn set_error(&self, error: Option<String>) {
        *self.last_error.lock() = error;
    }

    /// Sets the error of intake. It is kept apart because applying a state proves nothing about intake.
    pub(crate) fn set_intake_error(&self, error: Option<String>) {
        *self.intake_error.lock() = error;
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        let intake = self.intake_error.lock().clone();
        intake.or_else(|| self.last_error.lock().clone())
    }

    /// Whether the time from this change until now counts as lag. A first catch-up also brings changes from before
    /// anybody followed the entity; those do not count.
    pub(crate) fn is_lag(&self, changed_at: Timestamp) -> bool {
        self.caught_up.load(Relaxed) || changed_at >= self.began
    }

    /// Whether readers are to wait until the first catch-up is done.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.caught_up.load(Relaxed) && !self.absent.load(Relaxed)
    }

    /// Whether readers are to wait until it was found equal to its owner, where that is waited for.
    pub(crate) fn is_unequal(&self) -> bool {
        !self.found_equal.load(Relaxed) && !self.absent.load(Relaxed)
    }

    /// Notes that an entity is in its owner's state.
    pub(crate) fn progressed(&self) {
        self.last_progress.store(clock::now().unix_micros(), Relaxed);
    }

    pub(crate) fn register(&self, registry: &mut Registry, entity: &EntityName) {
        let label = [("entity".into(), entity.to_string().into())];
        let registry = registry.sub_registry_with_labels(label.into_iter());
        for (name, help, counter) in [
            ("nudge_received", "Notifications received", &self.received),
            ("nudge_malformed", "Malformed messages", &self.malformed),
            ("nudge_callbacks", "Callbacks to the owner", &self.callbacks),
            ("nudge_asked", "Entities requested from the owner", &self.asked),
            ("nudge_fetched", "Entities in the owner's answers", &self.fetched),
            ("nudge_applied", "States committed to the read model", &self.applied),
            ("nudge_ignored", "States that the read model already had", &self.ignored),
            ("nudge_retried", "Runs that have to be retried", &self.retried),
            ("nudge_dead_lettered", "Keys that became dead letters", &self.dead_lettered),
            (
                "nudge_read_model_replaced",
                "Times the read model was found empty or restored from an older copy",
                &self.replaced,
            ),
            (
                "nudge_given_up",
                "Keys given up after the owner repeatedly did not know them",
                &self.given_up,
            ),
            (
                "nudge_refilled",
                "Keys read again because another revision of the read model applied them",
                &self.refilled,
            ),
            ("nudge_resync_compared", "Entities compared with the owner", &self.compared),
            (
                "nudge_resync_contents_compared",
                "Entities whose contents were compared with the owner's state",
                &self.contents_compared,
            ),
            ("nudge_resync_sweeps", "Comparisons of everything that ended", &self.sweeps),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            ("nudge_queued", "Keys waiting for a run", &self.queued),
            ("nudge_processing", "Keys being processed", &self.processing),
            ("nudge_retrying", "Keys in memory whose last run failed", &self.retrying),
            (
                "nudge_parked",
                "Parked keys: rows of the dead-letter table that are retried automatically",
                &self.parked,
            ),
            (
                "nudge_dead_letters",
                "Dead letters: rows of the dead-letter table that are not retried automatically",
                &self.dead_letters,
            ),
            (
                "nudge_resync_removals_waiting",
                "Entities that the owner does not have, and that only an operator's word removes",
                &self.removals_waiting,
            ),
            (
                "nudge_stream_pending",
                "Messages that the broker has not delivered yet",
                &self.stream_pending,
            ),
            (
                "nudge_breaker_open",
                "1 while callbacks to the owner are suspended",
                &self.breaker_open,
            ),
            ("nudge_connected", "1 while notifications can arrive", &self.connected),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "nudge_resync_differences",
            "Entities that differed from the owner's, in version or in contents; what was in flight is not counted",
            self.differences.clone(),
        );
        registry.register(
            "nudge_convergence_lag_seconds",
            "Time from the owner's commit until the row is applied",
            self.lag.clone(),
        );
    }
}
