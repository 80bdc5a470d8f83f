//! Figures about one followed entity, for `status` and `/metrics`.

mod register;

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use nudge_protocol::Timestamp;
use nudge_runtime::{
    alerts::{Alarm, What},
    clock,
    metrics::{Age, Moment, durations},
    tasks::DeadTasks,
};
use parking_lot::Mutex;
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

use super::catching_up::CatchUp;
use crate::{
    callback::owner_client::{FetchError, FetchErrorKind},
    resync::difference::Kind,
};

/// The outcome of a callback that did not fail.
const ANSWERED: &str = "answered";

/// Kinds of differences in contents: a row is not as `apply` would leave it, or belongs to nothing.
pub(crate) const ALTERED: &str = "altered";
pub(crate) const STRAY: &str = "stray";

/// A label and its value.
type Label = [(&'static str, &'static str); 1];

/// Live figures of one followed entity. Written by its tasks, read by `status` and `/metrics`.
#[derive(Debug)]
pub(crate) struct Progress {
    /// What an operator is told of.
    pub(crate) alarm: Alarm,
    pub(crate) received: Counter,
    pub(crate) malformed: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) callbacks: Counter,
    /// By outcome.
    outcomes: Family<Label, Counter>,
    callback_duration: Histogram,
    batch_keys: Histogram,
    pub(crate) asked: Counter,
    pub(crate) fetched: Counter,
    pub(crate) applied: Counter,
    pub(crate) ignored: Counter,
    pub(crate) retried: Counter,
    pub(crate) second_looks: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) replaced: Counter,
    pub(crate) given_up: Counter,
    pub(crate) refilled: Counter,
    pub(crate) contents_compared: Counter,
    pub(crate) compared: Counter,
    pub(crate) sweeps: Counter,
    /// By kind.
    differences: Family<Label, Counter>,
    pub(crate) sweep_ended: Moment,
    pub(crate) queued: Gauge,
    pub(crate) oldest_waiting: Age,
    pub(crate) processing: Gauge,
    pub(crate) longest_run: Age,
    pub(crate) retrying: Gauge,
    pub(crate) parked: Gauge,
    pub(crate) dead_letters: Gauge,
    pub(crate) removals_waiting: Gauge,
    pub(crate) stream_pending: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) bypassed: Counter,
    pub(crate) consumer_mended: Counter,
    pub(crate) breaker_open: Gauge,
    pub(crate) dead_tasks: DeadTasks,
    lag: Histogram,
    catch_up_lag: Histogram,
    /// The last lag measured, in microseconds.
    pub(crate) last_lag_micros: AtomicI64,
    /// When something was last applied or found up to date.
    pub(crate) last_progress: Moment,
    /// When the stream was last seen to hold nothing that is not handled here.
    pub(crate) current_at: Moment,
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
    pub(crate) fn new(alarm: Alarm) -> Self {
        let outcomes = Family::<Label, Counter>::default();
        let differences = Family::<Label, Counter>::default();
        // Each series is there from the start.
        for outcome in [None].into_iter().chain(FetchErrorKind::ALL.map(Some)) {
            let outcome = outcome.map_or(ANSWERED, FetchErrorKind::as_str);
            outcomes.get_or_create(&[("outcome", outcome)]).inc_by(0);
        }
        for kind in Kind::ALL.map(Kind::as_str).into_iter().chain([ALTERED, STRAY]) {
            differences.get_or_create(&[("kind", kind)]).inc_by(0);
        }
        Self {
            alarm,
            received: Counter::default(),
            malformed: Counter::default(),
            coalesced: Counter::default(),
            callbacks: Counter::default(),
            outcomes,
            callback_duration: durations(),
            // 1 to 512, the most that the sync API allows.
            batch_keys: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            asked: Counter::default(),
            fetched: Counter::default(),
            applied: Counter::default(),
            ignored: Counter::default(),
            retried: Counter::default(),
            second_looks: Counter::default(),
            dead_lettered: Counter::default(),
            replaced: Counter::default(),
            given_up: Counter::default(),
            refilled: Counter::default(),
            contents_compared: Counter::default(),
            compared: Counter::default(),
            sweeps: Counter::default(),
            differences,
            sweep_ended: Moment::default(),
            queued: Gauge::default(),
            oldest_waiting: Age::default(),
            processing: Gauge::default(),
            longest_run: Age::default(),
            retrying: Gauge::default(),
            parked: Gauge::default(),
            dead_letters: Gauge::default(),
            removals_waiting: Gauge::default(),
            stream_pending: Gauge::default(),
            connected: Gauge::default(),
            bypassed: Counter::default(),
            consumer_mended: Counter::default(),
            breaker_open: Gauge::default(),
            dead_tasks: DeadTasks::default(),
            lag: durations(),
            catch_up_lag: durations(),
            last_lag_micros: AtomicI64::new(0),
            last_progress: Moment::default(),
            current_at: Moment::default(),
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

    /// Notes that a change was applied so many seconds after the owner's commit. A first catch-up also brings changes from
    /// before anybody followed the entity; those are counted apart.
    pub(crate) fn applied_after(&self, changed_at: Timestamp, lag_seconds: f64) {
        if self.caught_up.load(Relaxed) || changed_at >= self.began {
            self.lag.observe(lag_seconds);
            self.last_lag_micros.store((lag_seconds * 1e6) as i64, Relaxed);
        } else {
            self.catch_up_lag.observe(lag_seconds);
        }
    }

    /// Notes that a callback for so many keys begins.
    pub(crate) fn calls_back(&self, keys: usize) {
        self.callbacks.inc();
        self.asked.inc_by(keys as u64);
        self.batch_keys.observe(keys as f64);
    }

    /// Notes how long a callback took, and how it ended.
    pub(crate) fn called_back<T>(&self, took: Duration, outcome: &Result<T, FetchError>) {
        self.callback_duration.observe(took.as_secs_f64());
        let outcome = outcome.as_ref().map_or_else(|error| error.kind.as_str(), |_| ANSWERED);
        self.outcomes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Notes so many differences of one kind from the owner.
    pub(crate) fn differ(&self, kind: &'static str, count: u64) {
        self.alarm.raise(What::Difference, None);
        self.differences.get_or_create(&[("kind", kind)]).inc_by(count);
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
        self.last_progress.set(Some(clock::now()));
    }
}
