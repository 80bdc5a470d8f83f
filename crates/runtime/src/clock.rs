//! The current time, from the system's clock or from a simulation with virtual time.
//!
//! For shells around pure code. Pure code takes `now`.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nudge_protocol::Timestamp;

type Clock = Box<dyn Fn() -> Timestamp>;

thread_local! {
    static SIMULATED: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

/// The current time.
pub fn now() -> Timestamp {
    if let Some(now) = SIMULATED.with_borrow(|clock| clock.as_ref().map(|clock| clock())) {
        return now;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The time so long ago.
pub fn ago(by: Duration) -> Timestamp {
    let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_unix_micros(now().unix_micros().saturating_sub(micros))
}

/// Makes [`now`] follow another clock on this thread, until the returned value is dropped.
#[must_use]
pub fn simulate(clock: impl Fn() -> Timestamp + 'static) -> Simulated {
    SIMULATED.set(Some(Box::new(clock)));
    Simulated(())
}

/// A simulated clock is in use. See [`simulate`].
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        SIMULATED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_clock_is_back_when_the_simulation_is_over() {
        let then = Timestamp::from_unix_micros(17);
        let simulated = simulate(move || then);
        assert_eq!(now(), then);
        let elsewhere = std::thread::spawn(now).join().unwrap();
        assert!(elsewhere > then, "other threads have the system's");
        drop(simulated);
        assert!(now() > then);
    }
}
