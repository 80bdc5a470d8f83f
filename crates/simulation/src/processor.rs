//! Keeps a run on one processor. Its threads, the story's and those of its databases, never work at the
//! same time but hand over to each other all the time, which takes several times as long from one processor
//! to another. Runs of other threads have other processors.

#[cfg(target_os = "linux")]
pub(crate) use linux::OneProcessor;

/// Nothing here: only Linux lets a thread say so.
#[cfg(not(target_os = "linux"))]
pub(crate) struct OneProcessor;

#[cfg(not(target_os = "linux"))]
impl OneProcessor {
    pub(crate) fn of_this_thread() -> Self {
        Self
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use parking_lot::Mutex;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processor of each thread of this process that ever ran something and has not ended.
    static TAKEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    /// Set by cargo-nextest: a number that no other running test of the same group has, from 0.
    const GROUP_SLOT: &str = "NEXTEST_TEST_GROUP_SLOT";

    thread_local! {
        static SEAT: Seat = Seat::new();
    }

    /// A thread's processor.
    struct Seat(Option<usize>);

    impl Seat {
        /// The one that the fewest have, of those that this thread may use. Not every process begins with
        /// the same one.
        fn new() -> Self {
            let Ok(all) = sched_getaffinity(None) else { return Self(None) };
            let mut usable: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
            let first = first_of_process() % usable.len().max(1);
            usable.rotate_left(first);
            let mut taken = TAKEN.lock();
            let threads = |cpu: &usize| taken.iter().filter(|other| *other == cpu).count();
            let seat = usable.into_iter().min_by_key(threads);
            taken.extend(seat);
            Self(seat)
        }
    }

    /// With which one this process begins. Where each test has a process of its own, the runner says how many
    /// of the others there are at the same time, as far as they are in one group (`.config/nextest.toml`).
    fn first_of_process() -> usize {
        let slot = std::env::var(GROUP_SLOT).ok().and_then(|slot| slot.parse().ok());
        slot.unwrap_or_else(|| std::process::id() as usize)
    }

    impl Drop for Seat {
        fn drop(&mut self) {
            let mut taken = TAKEN.lock();
            if let Some(at) = taken.iter().position(|cpu| Some(*cpu) == self.0) {
                taken.swap_remove(at);
            }
        }
    }

    /// From here until this is dropped, this thread stays on one processor, and so do those that it starts.
    pub(crate) struct OneProcessor {
        before: Option<CpuSet>,
    }

    impl OneProcessor {
        /// Always the same one. Where that cannot be had, all stays as it is: it is about speed alone.
        pub(crate) fn of_this_thread() -> Self {
            let before = sched_getaffinity(None).ok();
            if let Some(cpu) = SEAT.with(|seat| seat.0) {
                let mut one = CpuSet::new();
                one.set(cpu);
                let _ = sched_setaffinity(None, &one);
            }
            Self { before }
        }
    }

    impl Drop for OneProcessor {
        fn drop(&mut self) {
            if let Some(before) = &self.before {
                let _ = sched_setaffinity(None, before);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_has_all_its_processors_again_afterwards() {
            let before = sched_getaffinity(None).unwrap();
            for _ in 0..2 {
                let one = OneProcessor::of_this_thread();
                assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
                let started = std::thread::spawn(|| sched_getaffinity(None).unwrap().count());
                assert_eq!(started.join().unwrap(), 1, "also those that it starts");
                drop(one);
                assert!(sched_getaffinity(None).unwrap() == before);
            }
        }

        #[test]
        fn threads_that_run_at_the_same_time_spread_out() {
            let all = sched_getaffinity(None).unwrap().count() as usize;
            let everyone_is_there = &std::sync::Barrier::new(all);
            let processor = || {
                let _one = OneProcessor::of_this_thread();
                everyone_is_there.wait();
                SEAT.with(|seat| seat.0)
            };
            // Another test may have a seat, too, for a moment.
            let spread = (0..20).any(|_| {
                let taken = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..all).map(|_| scope.spawn(processor)).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
                });
                std::collections::BTreeSet::from_iter(taken).len() == all
            });
            assert!(spread);
        }
    }
}
