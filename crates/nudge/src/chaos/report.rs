//! The result of a run.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::Ordering::Relaxed};

use nudge_testbed::{compare::Difference, line::Counts};
use serde::Serialize;

use super::{
    board::{Counted, Follower, MAX_BATCH_STORES, State},
    edits::Written,
    plan::{Databases, Kind, Place, Plan},
};
use crate::output::{count, duration};

/// Most differences that are listed one by one.
const MAX_DIFFERENCES: usize = 40;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Every read model equals the owners in every store and review.
    Converged,
    /// Some read model still differs.
    Diverged,
    /// Everything is equal, but something happened that never should.
    Surprised,
    /// The run itself could not be carried out, so nothing is known.
    NotTested,
}

/// See the module documentation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    seed: u64,
    minutes: f64,
    data_in: Databases,
    /// Of each service.
    replicas: u64,
    edits: u64,
    changes: u64,
    /// Written, rewritten and deleted.
    reviews: u64,
    faults: BTreeMap<Kind, u64>,
    faults_on: BTreeMap<Place, BTreeMap<Kind, u64>>,
    never: Vec<Kind>,
    skipped: Vec<String>,
    /// Of services, because the database was away.
    failed_starts: u64,
    messages: Messages,
    converge_seconds: Option<f64>,
    /// Differences that no notification told of, once everything was equal.
    planted: u64,
    /// Until comparing had found and repaired them all.
    found_seconds: Option<f64>,
    /// Calls to the owner. All four are lower bounds.
    callbacks: u64,
    /// Per change and subscriber. One call is for up to [`MAX_BATCH_STORES`].
    callbacks_per_change: f64,
    /// Stores that these asked for.
    stores_asked: u64,
    stores_asked_per_change: f64,
    longest_gap_seconds: BTreeMap<String, f64>,
    differences_total: usize,
    differences: Vec<Difference>,
    /// What could not be compared in the last comparison, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_compared: Option<String>,
    surprises: Vec<String>,
    /// What the run itself failed to do.
    broken: Vec<String>,
    plan: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<String>,
}

/// What happened to single messages.
#[derive(Clone, Copy, Debug, Serialize)]
struct Messages {
    reordered: u64,
    duplicated: u64,
    dropped: u64,
}

/// How the comparison after the last fault went.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) converged_after: Option<f64>,
    /// Differences that were planted once everything was equal.
    pub(super) planted: u64,
    /// Seconds after which everything was equal again.
    pub(super) found_after: Option<f64>,
    /// In the last comparison.
    pub(super) differences: Vec<Difference>,
    /// Why there was no last comparison, if there was none.
    pub(super) not_compared: Option<String>,
    /// What the run itself failed to do.
    pub(super) broken: Vec<String>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        databases: Databases,
        written: &Written,
        state: State,
        counts: &Counts,
        ending: Ending,
        surprises: Vec<String>,
    ) -> Self {
        let verdict = match (ending.converged_after, surprises.is_empty()) {
            _ if !ending.broken.is_empty() => Verdict::NotTested,
            (None, _) => Verdict::Diverged,
            (Some(_), false) => Verdict::Surprised,
            (Some(_), true) => Verdict::Converged,
        };
        let sum = |of: fn(&Follower) -> Counted| {
            state.subscribers.iter().map(|one| of(one).total()).sum::<u64>()
        };
        let (callbacks, stores_asked) = (sum(|one| one.callbacks), sum(|one| one.asked));
        let subscribers = plan.cast().subscribers().count() as u64;
        let followed = (written.changes.max(1) * subscribers) as f64;
        let gap = |one: &Follower| (one.name.clone(), one.longest_gap.as_secs_f64());
        let gaps = state.subscribers.iter().map(gap).collect();
        let never = databases.kinds().filter(|kind| !state.done.contains_key(kind)).collect();
        let mut differences = ending.differences;
        let differences_total = differences.len();
        differences.truncate(MAX_DIFFERENCES);
        Self {
            verdict,
            seed: plan.seed,
            minutes: plan.millis as f64 / 60_000.0,
            data_in: databases,
            replicas: plan.replicas,
            edits: written.made,
            changes: written.changes,
            reviews: written.reviews,
            faults: state.done,
            faults_on: state.done_on,
            never,
            skipped: state.skipped,
            failed_starts: state.failed_starts,
            messages: Messages {
                reordered: counts.reordered.load(Relaxed),
                duplicated: counts.duplicated.load(Relaxed),
                dropped: counts.dropped.load(Relaxed),
            },
            converge_seconds: ending.converged_after,
            planted: ending.planted,
            found_seconds: ending.found_after,
            callbacks,
            callbacks_per_change: callbacks as f64 / followed,
            stores_asked,
            stores_asked_per_change: stores_asked as f64 / followed,
            longest_gap_seconds: gaps,
            differences_total,
            differences,
            not_compared: ending.not_compared,
            surprises,
            broken: ending.broken,
            plan: None,
            data_dir: None,
            replay: None,
        }
    }

    /// Says where things are kept, and how to replay the run: `with` holds further arguments for that.
    pub(super) fn kept(&mut self, plan: Option<PathBuf>, data_dir: Option<PathBuf>, with: &str) {
        self.replay = plan.as_ref().filter(|_| self.verdict != Verdict::Converged).map(|plan| {
            let plan = plan.display().to_string().replace('\'', r"'\''");
            format!("nudge chaos replay '{plan}'{with}")
        });
        (self.plan, self.data_dir) = (plan, data_dir);
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let list =
            |kinds: &[Kind]| kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let faults = self.faults.iter().map(|(kind, times)| format!("{kind} {times}"));
        let faults = faults.collect::<Vec<_>>().join(", ");
        let total = count(self.faults.values().sum(), "fault");
        let Messages { reordered, duplicated, dropped } = self.messages;
        let minutes = self.minutes;
        let mut lines = vec![
            format!(
                "seed {}, {minutes} min, data in {}, {} of each service: {}, {} changed something; {}",
                self.seed,
                self.data_in,
                count(self.replicas, "replica"),
                count(self.edits, "edit"),
                self.changes,
                count(self.reviews, "write") + " of reviews",
            ),
            format!("{total}: {faults}"),
            format!("killed: {}; frozen: {}", self.victims(Kind::Kill), self.victims(Kind::Freeze)),
            format!(
                "notifications: {reordered} reordered, {duplicated} duplicated, {dropped} dropped"
            ),
        ];
        if !self.never.is_empty() {
            lines.push(format!("never happened: {}", list(&self.never)));
        }
        lines.extend(self.skipped.iter().map(|skipped| format!("could not be done: {skipped}")));
        if self.failed_starts > 0 {
            let starts = count(self.failed_starts, "start");
            lines.push(format!("{starts} of services failed while the database was away"));
        }
        lines.push(format!(
            "for each change and subscriber at least {:.2} calls to the owner, of up to \
             {MAX_BATCH_STORES} stores each, and {:.2} stores asked for",
            self.callbacks_per_change, self.stores_asked_per_change
        ));
        for (service, seconds) in &self.longest_gap_seconds {
            lines.push(format!("longest gap in reads of {service}: {}", duration(*seconds)));
        }
        if self.planted > 0 {
            let planted = count(self.planted, "planted difference");
            lines.push(match self.found_seconds {
                Some(seconds) => {
                    format!("{planted}: all found and repaired {} after", duration(seconds))
                }
                None => format!("{planted}: not all were found"),
            });
        }
        lines.extend(self.differences.iter().map(|difference| format!("differs: {difference}")));
        if self.differences_total > self.differences.len() {
            let more = self.differences_total - self.differences.len();
            lines.push(format!("differs: {more} more"));
        }
        lines.extend(self.not_compared.iter().map(|why| format!("cannot be compared: {why}")));
        lines.extend(self.surprises.iter().map(|what| format!("should not have happened: {what}")));
        lines.extend(self.broken.iter().map(|what| format!("could not be done: {what}")));
        lines.extend(self.plan.iter().map(|plan| format!("plan: {}", plan.display())));
        lines.extend(self.data_dir.iter().map(|data| format!("data and logs: {}", data.display())));
        lines.extend(self.replay.iter().map(|replay| format!("again: {replay}")));
        lines.push(self.verdict_line());
        lines
    }

    /// What a kind of fault hit, and how often.
    fn victims(&self, kind: Kind) -> String {
        let times = |(at, kinds): (&Place, &BTreeMap<Kind, u64>)| {
            kinds.get(&kind).map(|times| format!("{at} {times}"))
        };
        let victims: Vec<_> = self.faults_on.iter().filter_map(times).collect();
        if victims.is_empty() { "nobody".to_owned() } else { victims.join(", ") }
    }

    /// The last line.
    pub(super) fn verdict_line(&self) -> String {
        match (self.verdict, self.converge_seconds) {
            (Verdict::Converged, Some(seconds)) => {
                format!("converged {} after the last fault and edit", duration(seconds))
            }
            (Verdict::Surprised, Some(seconds)) => {
                format!(
                    "converged {} after, but see what should not have happened",
                    duration(seconds)
                )
            }
            (Verdict::NotTested, _) => {
                let why = self.broken.first().map_or("no reason", String::as_str);
                format!("not tested, since the run itself failed: {why}")
            }
            _ => {
                format!("did not converge: {}", count(self.differences_total as u64, "difference"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
