//! How the newest version came to each subscriber, counted from the owner's commit.

use nudge_protocol::{
    Timestamp,
    admin::{KeyRun, RunOutcome},
};

use super::paragraph::{WIDTH, paragraph};
use crate::{
    output::{count, duration},
    why::{Story, SubscriberHeld},
};

/// Empty if no subscriber remembers a run since that commit.
pub(super) fn lines(story: &Story) -> Vec<String> {
    let Some(commit) = story.held.owner.recorded.map(|recorded| recorded.changed_at) else {
        return Vec::new();
    };
    let runs = story.held.subscribers.iter().filter_map(last_run);
    // Runs that ended before brought older versions.
    let runs: Vec<_> = runs.filter(|(_, run)| run.ended_at >= commit).collect();
    if runs.is_empty() {
        return Vec::new();
    }
    let width = runs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(6);
    let mut lines = vec![format!("Last runs, from the owner's commit at {commit}:")];
    if let Some(stored) = story.held.owner.message.and_then(|message| message.published_at) {
        lines.push(format!("  {:width$}  stored {}", "stream", after(stored, commit)));
    }
    for (name, run) in runs {
        lines.extend(paragraph(&format!("  {name:width$}  "), &told(run, commit), WIDTH));
    }
    lines
}

fn last_run(one: &SubscriberHeld) -> Option<(&str, &KeyRun)> {
    Some((one.service.as_str(), one.key.as_ref()?.runs.last()?))
}

fn told(run: &KeyRun, commit: Timestamp) -> String {
    let what = match run.notifications {
        0 => "asked for by something else than a notification".to_owned(),
        many => format!("{}, 1 callback", count(u64::from(many), "notification")),
    };
    let at = |word: &str, time: Timestamp| format!("{word} {}", after(time, commit));
    let mut steps = vec![at("received", run.since), at("asked", run.asked_at)];
    steps.extend(run.answered_at.map(|time| at("answered", time)));
    let outcome = match run.outcome {
        Some(RunOutcome::Applied) => "applied",
        Some(RunOutcome::Ignored) => "ignored (it had that version or a later one)",
        Some(RunOutcome::Retried) => "to be tried again",
        Some(RunOutcome::Parked) => "parked",
        Some(RunOutcome::DeadLetter) => "a dead letter",
        None => "ended",
    };
    steps.push(at(outcome, run.ended_at));
    format!("{what}: {}", steps.join(", "))
}

/// Such as `+1.2 ms`.
fn after(time: Timestamp, commit: Timestamp) -> String {
    match time.seconds_since(commit) {
        seconds if seconds < 0.0 => format!("-{}", duration(-seconds)),
        seconds => format!("+{}", duration(seconds)),
    }
}
