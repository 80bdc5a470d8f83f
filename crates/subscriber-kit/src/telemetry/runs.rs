//! How the last runs went, so that it can be told afterwards, whether anybody watched or not.

use std::collections::{HashMap, VecDeque};

use nudge_protocol::{
    EntityId, Timestamp, Version,
    admin::{KeyRun, MAX_RUNS_PER_KEY},
};
use nudge_runtime::traces::Context;
use parking_lot::Mutex;

/// Runs that are remembered of a followed entity, the oldest forgotten first. With the longest IDs and errors
/// they take 5 MB, usually 1.5 MB.
const MAX_KEPT_RUNS: usize = 8_192;
/// Longest error that is remembered, in bytes.
pub(crate) const MAX_KEPT_ERROR_BYTES: usize = 200;

/// One callback for many keys, and its answer.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) asked_at: Timestamp,
    /// `None` if it was not answered.
    pub(crate) answered_at: Option<Timestamp>,
    /// The states and tombstones among the answers.
    pub(crate) answers: HashMap<EntityId, Answered>,
    /// Its span, if a trace wants to know of it.
    pub(crate) span: Option<Context>,
}

impl Call {
    /// A call that was not answered.
    pub(crate) fn failed(asked_at: Timestamp, span: Option<Context>) -> Self {
        Self { asked_at, answered_at: None, answers: HashMap::new(), span }
    }
}

/// What the owner answered about one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) version: Version,
    pub(crate) changed_at: Timestamp,
    pub(crate) deleted: bool,
    /// Whether it was committed in the read model, and not there already.
    pub(crate) applied: bool,
}

/// The last runs, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<VecDeque<(EntityId, KeyRun)>>);

impl Runs {
    /// Remembers the runs of a batch.
    pub(crate) fn keep(&self, batch: impl ExactSizeIterator<Item = (EntityId, KeyRun)>) {
        let mut runs = self.0.lock();
        let surplus = (runs.len() + batch.len()).saturating_sub(MAX_KEPT_RUNS);
        let surplus = surplus.min(runs.len());
        runs.drain(..surplus);
        runs.extend(batch);
    }

    /// What is remembered of these keys, oldest first, at most [`MAX_RUNS_PER_KEY`] of each.
    pub(crate) fn of(&self, ids: &[EntityId]) -> HashMap<EntityId, Vec<KeyRun>> {
        let mut found: HashMap<_, _> = ids.iter().map(|id| (id.clone(), Vec::new())).collect();
        for (id, run) in self.0.lock().iter().rev() {
            match found.get_mut(id) {
                Some(runs) if runs.len() < MAX_RUNS_PER_KEY => runs.push(run.clone()),
                _ => {}
            }
        }
        found.values_mut().for_each(|runs| runs.reverse());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u32) -> KeyRun {
        let at = Timestamp::from_unix_micros(i64::from(number));
        KeyRun {
            since: at,
            notifications: number,
            sequence: None,
            published_at: None,
            asked_at: at,
            answered_at: None,
            version: None,
            deleted: None,
            changed_at: None,
            outcome: None,
            ended_at: at,
            attempts: 0,
            error: None,
        }
    }

    fn id(name: &str) -> EntityId {
        EntityId::new(name).unwrap()
    }

    fn batch(name: &str, numbers: std::ops::Range<u32>) -> Vec<(EntityId, KeyRun)> {
        numbers.map(|number| (id(name), run(number))).collect()
    }

    #[test]
    fn the_newest_runs_of_a_key_are_told_oldest_first() {
        let runs = Runs::default();
        runs.keep(batch("a", 0..9).into_iter());
        runs.keep(batch("b", 0..2).into_iter());
        let told = runs.of(&[id("a"), id("b"), id("c")]);
        let numbers = |name: &str| -> Vec<_> {
            told[&id(name)].iter().map(|run| run.notifications).collect()
        };
        assert_eq!((numbers("a"), numbers("b")), (vec![5, 6, 7, 8], vec![0, 1]));
        assert!(told[&id("c")].is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_are_forgotten() {
        let runs = Runs::default();
        runs.keep(batch("old", 0..1).into_iter());
        for _ in 0..MAX_KEPT_RUNS / 256 + 1 {
            runs.keep(batch("new", 0..256).into_iter());
        }
        assert!(runs.0.lock().len() <= MAX_KEPT_RUNS);
        assert!(runs.of(&[id("old")])[&id("old")].is_empty());
    }

    /// What it costs beside the work on a key, which takes 20 µs and more.
    #[test]
    #[ignore = "a measurement: cargo test -p nudge-subscriber-kit --release -- --ignored what_remembering"]
    fn what_remembering_a_run_costs() {
        let (runs, batches) = (Runs::default(), 4_000);
        let ids: Vec<_> = (0..256).map(|n| id(&format!("thing-{n}"))).collect();
        let began = std::time::Instant::now();
        for _ in 0..batches {
            runs.keep(ids.iter().map(|id| (id.clone(), run(7))));
        }
        let keep = began.elapsed().as_nanos() / (batches * 256);
        let began = std::time::Instant::now();
        let told = (0..100).map(|_| runs.of(&ids).len()).sum::<usize>();
        let of = began.elapsed().as_micros() / 100;
        println!("keeping a run: {keep} ns; telling those of 256 keys: {of} µs ({told})");
    }
}
