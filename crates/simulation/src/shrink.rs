//! Shrinks a failing run to the shortest one that still fails.

use std::collections::BTreeSet;

use crate::{chance::Draw, report::Outcome};

/// Most runs that shrinking may take.
const MAX_RUNS: usize = 200;

/// Removes faults, in smaller and smaller parts, as long as some rule is still broken. `run` runs the same
/// seed with only these faults.
pub(crate) fn shrink(failed: &Outcome, run: impl Fn(BTreeSet<Draw>) -> Outcome) -> Outcome {
    let mut needed: Vec<_> = failed.faults.iter().map(|(draw, _)| *draw).collect();
    let mut best = failed.clone();
    let mut part = needed.len().div_ceil(2).max(1);
    let mut runs = 0;
    loop {
        let mut from = 0;
        while from < needed.len() && runs < MAX_RUNS {
            let mut allowed = needed.clone();
            allowed.drain(from..(from + part).min(needed.len()));
            let outcome = run(allowed.iter().copied().collect());
            runs += 1;
            if outcome.is_good() {
                from += part;
            } else {
                (needed, best) = (allowed, outcome);
            }
        }
        if part == 1 || runs >= MAX_RUNS {
            return best;
        }
        part = part.div_ceil(2);
    }
}
