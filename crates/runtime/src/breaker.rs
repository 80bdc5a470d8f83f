//! A circuit breaker in front of another service. Pure: `now` is passed in.
//!
//! While the service fails, calls stop. One probe at a time, with growing pauses, finds out whether it is back.
//!
//! In the subscriber kit, each followed entity has its own breaker to its owner: an owner may fail for one kind of entity
//! only, or not have that kind at all. Nothing that happens while that breaker is open counts against any key.

use std::time::{Duration, Instant};

use nudge_protocol::admin::BreakerState;

/// Number of consecutive failures that open the breaker.
pub const FAILURES_TO_OPEN: u32 = 5;
/// Pause before the first probe.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two probes.
pub const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause that a service's `Retry-After` can ask for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What a caller may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Call freely.
    Full,
    /// Probe the service and report the result.
    Probe,
    /// Do not call before this instant, then ask again.
    Wait(Instant),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Breaker {
    failures: u32,
    open: bool,
    /// The last pause; `None` while the service answers.
    pause: Option<Duration>,
    until: Option<Instant>,
    /// The end of the wait that the service asked for in `Retry-After`. Nothing ends it sooner.
    asked: Option<Instant>,
    probing: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl Breaker {
    /// A closed breaker.
    pub const fn new() -> Self {
        Self { failures: 0, open: false, pause: None, until: None, asked: None, probing: false }
    }

    /// To be called before each call to the service. A [`Permit::Probe`] must be followed by
    /// [`success`](Self::success), [`failure`](Self::failure) or [`let_through`](Self::let_through).
    pub fn permit(&mut self, now: Instant) -> Permit {
        match self.until.max(self.asked) {
            Some(until) if now < until => Permit::Wait(until),
            _ if !self.open => Permit::Full,
            _ if self.probing => Permit::Wait(now + FIRST_PAUSE / 10),
            _ => {
                self.probing = true;
                Permit::Probe
            }
        }
    }

    /// A call was answered. Returns whether the service had been failing: whether the breaker was open, or had been since
    /// the last answer. A `Retry-After` stays in force, since the answered call may have started before it.
    pub fn success(&mut self) -> bool {
        let failed_before = self.pause.is_some();
        *self = Self { asked: self.asked, ..Self::new() };
        failed_before
    }

    /// The probe was answered, but that does not prove that calls will be. They are let through; if one fails, the
    /// breaker opens again at once, for longer.
    pub fn let_through(&mut self) {
        let (asked, pause) = (self.asked, self.pause);
        *self = Self { asked, pause, failures: FAILURES_TO_OPEN - 1, ..Self::new() };
    }

    /// A call failed through the service's fault. `retry_after` is the wait that it asked for. Returns whether this
    /// opened the breaker for the first time since the service last answered.
    pub fn failure(&mut self, now: Instant, retry_after: Option<Duration>) -> bool {
        let was_well = self.pause.is_none();
        self.failures = self.failures.saturating_add(1);
        let probe_failed = std::mem::take(&mut self.probing);
        if self.failures >= FAILURES_TO_OPEN || probe_failed {
            let pause = self.pause.map_or(FIRST_PAUSE, |p| (p * 2).min(MAX_PAUSE));
            // Calls that were in progress when it opened do not lengthen the pause.
            if !self.open || probe_failed {
                (self.open, self.pause, self.until) = (true, Some(pause), Some(now + pause));
            }
        }
        let asked = retry_after.map(|asked| now + asked.min(MAX_RETRY_AFTER));
        self.asked = self.asked.max(asked);
        was_well && self.open
    }

    /// The service answered something that proves no more than that it answers: if that was a probe, calls are
    /// [let through](Self::let_through).
    pub fn has_answered(&mut self) {
        if self.state() == BreakerState::HalfOpen {
            self.let_through();
        }
    }

    /// The service answers, but is busy, and asked to be left alone for so long. That is no failure: it only waits, and a probe
    /// lets calls through again.
    pub fn busy(&mut self, now: Instant, retry_after: Duration) {
        self.has_answered();
        self.asked = self.asked.max(Some(now + retry_after.min(MAX_RETRY_AFTER)));
    }

    /// Whether nothing but the wish of a service that is [busy](Self::busy) keeps calls back.
    pub fn is_left_alone(&self, now: Instant) -> bool {
        self.failures == 0 && self.asked.is_some_and(|until| now < until)
    }

    /// The state, as shown to people.
    pub fn state(&self) -> BreakerState {
        match (self.open, self.probing) {
            (false, _) => BreakerState::Closed,
            (true, true) => BreakerState::HalfOpen,
            (true, false) => BreakerState::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(breaker.permit(now), Permit::Full);
            breaker.failure(now, None);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            for _ in 1..FAILURES_TO_OPEN {
                breaker.failure(now, None);
            }
            breaker.success();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let mut breaker = opened(now);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.permit(now), Permit::Wait(now + FIRST_PAUSE));
    }

    /// A log line for each outage, not one for each failure.
    #[test]
    fn it_tells_once_that_it_opened_until_the_owner_answers() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for outage in 0..2 {
            let told: Vec<_> = (0..10).map(|_| breaker.failure(now, None)).collect();
            let first = FAILURES_TO_OPEN as usize - 1;
            assert_eq!(told.iter().position(|told| *told), Some(first), "{outage}");
            assert_eq!(told.iter().filter(|told| **told).count(), 1);
            assert_eq!(breaker.permit(now + FIRST_PAUSE), Permit::Probe);
            assert!(!breaker.failure(now + FIRST_PAUSE, None));
            breaker.success();
        }
    }

    #[test]
    fn one_probe_at_a_time_and_its_failure_lengthens_the_pause() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_PAUSE;
        assert_eq!(breaker.permit(later), Permit::Probe);
        assert!(matches!(breaker.permit(later), Permit::Wait(_)));
        breaker.failure(later, None);
        assert_eq!(breaker.permit(later), Permit::Wait(later + FIRST_PAUSE * 2));
    }

    #[test]
    fn a_successful_probe_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.permit(now + FIRST_PAUSE), Permit::Probe);
        assert!(breaker.success());
        assert_eq!(breaker.permit(now + FIRST_PAUSE), Permit::Full);
        assert!(!breaker.success(), "it was closed already");
    }

    #[test]
    fn calls_that_are_let_through_close_it_or_open_it_for_longer() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let mut later = now + FIRST_PAUSE;
        for times in [2, 4] {
            assert_eq!(breaker.permit(later), Permit::Probe);
            breaker.let_through();
            assert_eq!(
                (breaker.state(), breaker.permit(later)),
                (BreakerState::Closed, Permit::Full)
            );
            breaker.failure(later, None);
            assert_eq!(breaker.permit(later), Permit::Wait(later + FIRST_PAUSE * times));
            later += FIRST_PAUSE * times;
        }
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.let_through();
        assert!(breaker.success() && !breaker.success());
        breaker.failure(later, None);
        assert_eq!(breaker.permit(later), Permit::Full, "one failure is no more than that");
    }

    #[test]
    fn the_pause_is_capped() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..20 {
            let Permit::Wait(until) = breaker.permit(now) else { panic!("open") };
            assert!(until - now <= MAX_PAUSE);
            now = until;
            assert_eq!(breaker.permit(now), Permit::Probe);
            breaker.failure(now, None);
        }
    }

    #[test]
    fn retry_after_is_kept_to_and_capped_even_when_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.failure(now, Some(Duration::from_secs(7)));
        assert_eq!(breaker.permit(now), Permit::Wait(now + Duration::from_secs(7)));
        assert_eq!(breaker.permit(now + Duration::from_secs(7)), Permit::Full);
        breaker.failure(now, Some(Duration::from_secs(86_400)));
        assert_eq!(breaker.permit(now), Permit::Wait(now + MAX_RETRY_AFTER));
    }

    #[test]
    fn however_often_a_service_is_busy_it_is_left_alone_and_does_not_fail() {
        let now = Instant::now();
        let (mut breaker, asked) = (Breaker::new(), Duration::from_secs(7));
        for _ in 0..2 * FAILURES_TO_OPEN {
            breaker.busy(now, asked);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.permit(now), Permit::Wait(now + asked));
        assert!(breaker.is_left_alone(now) && !breaker.is_left_alone(now + asked));
        assert_eq!(breaker.permit(now + asked), Permit::Full);
        // To a probe, it shows that the service is back.
        let mut breaker = opened(now);
        assert!(!breaker.is_left_alone(now));
        let later = now + FIRST_PAUSE;
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.busy(later, asked);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.permit(later), Permit::Wait(later + asked));
    }

    #[test]
    fn the_success_of_a_call_under_way_does_not_cut_retry_after_short() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.failure(now, Some(Duration::from_secs(7)));
        breaker.success();
        let until = now + Duration::from_secs(7);
        assert_eq!(breaker.permit(now), Permit::Wait(until));
        assert_eq!(breaker.permit(until), Permit::Full);
    }

    #[test]
    fn late_failures_of_calls_under_way_do_not_lengthen_the_pause() {
        let now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..50 {
            breaker.failure(now, None);
        }
        assert_eq!(breaker.permit(now + FIRST_PAUSE), Permit::Probe);
    }
}
