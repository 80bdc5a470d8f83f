//! The costs of a trial, in the same units for every trial.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use nudge_runtime::database::Kind;

/// What subscribers asked the owner for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Calls that ask for states. Probes of the owner ask for none.
    pub calls: u64,
    /// Keys in those calls.
    pub keys: u64,
}

impl Add for Asked {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, keys: self.keys + other.keys }
    }
}

impl Sub for Asked {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, keys: self.keys - before.keys }
    }
}

/// One line of `make faults`, and one row of `docs/faults.md`.
#[derive(Clone, Copy, Debug)]
pub struct Figure<'a> {
    /// The kind of database.
    pub kind: Kind,
    /// The fault.
    pub name: &'a str,
    /// Changes that the owner committed.
    pub changes: u64,
    /// What all subscribers together asked the owner for.
    pub asked: Asked,
    /// Number of subscribers.
    pub subscribers: u64,
    /// From the last repair until all earlier changes were in the read models.
    pub in_step: Duration,
    /// Longest time between two good answers of a read model.
    pub longest_gap: Duration,
    /// Reads that were not answered.
    pub failed_reads: usize,
}

impl Figure<'_> {
    /// Prints it. `scripts/fault-figures` reads it.
    pub fn print(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Figure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_change = |count: u64| count as f64 / self.changes as f64 / self.subscribers as f64;
        write!(
            f,
            "figure | {:?} | {} | {} changes | {:.2} calls per change | {:.2} keys per change \
             | in step after {:.2} s | longest gap {} ms | {} failed reads",
            self.kind,
            self.name,
            self.changes,
            per_change(self.asked.calls),
            per_change(self.asked.keys),
            self.in_step.as_secs_f64(),
            self.longest_gap.as_millis(),
            self.failed_reads,
        )
    }
}
