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
    use std::{fs::File, sync::OnceLock};

    use parking_lot::Mutex;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processor of each thread of this process that ever ran something and has not ended.
    static TAKEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

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
            let first = first_of_process(&usable) % usable.len().max(1);
            usable.rotate_left(first);
            let mut taken = TAKEN.lock();
            let threads = |cpu: &usize| taken.iter().filter(|other| *other == cpu).count();
            let seat = usable.into_iter().min_by_key(threads);
            taken.extend(seat);
            Self(seat)
        }
    }

    /// The place of the processor with which this process begins: the first that no other process has, since
    /// test runners give each test a process of its own. The lock ends with the process.
    fn first_of_process(usable: &[usize]) -> usize {
        static HELD: OnceLock<(usize, Option<File>)> = OnceLock::new();
        let free = || {
            (0..usable.len()).find_map(|place| {
                let name = format!("nudge-simulation-processor-{}.lock", usable[place]);
                let file = File::create(std::env::temp_dir().join(name)).ok()?;
                file.try_lock().ok()?;
                Some((place, Some(file)))
            })
        };
        // If none is free, not every process takes the same one.
        HELD.get_or_init(|| free().unwrap_or((std::process::id() as usize, None))).0
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
