//! The results of one run, and of many.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    chance::Draw,
    fault::Fault,
    only::command,
    plan::{KEY, Plan},
    profile::Profile,
    world::World,
};

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The profile.
    pub profile: Profile,
    /// The seed.
    pub seed: u64,
    /// Rules that were broken; none if everything held.
    pub violations: Vec<String>,
    /// Who did what, when.
    pub story: Vec<(Duration, String)>,
    /// Identifies the course of events: the same seed gives the same hash.
    pub hash: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// Callbacks, for all IDs.
    pub calls: u64,
    /// Longest time from a commit of the owner until the read model had that version or a later one.
    pub latest: Duration,
    pub(crate) faults: Vec<(Draw, Fault)>,
    consequences: BTreeMap<Fault, u64>,
    impossible: BTreeSet<Fault>,
}

impl Outcome {
    pub(crate) fn of(plan: &Plan, world: &World) -> Self {
        let happened = world.happened();
        Self {
            profile: plan.profile,
            seed: plan.seed,
            violations: world.violations(),
            story: world.trace(),
            hash: world.hash(),
            elapsed: world.elapsed(),
            calls: world.calls(),
            latest: world.latest(),
            consequences: world.consequences(),
            impossible: world.impossible(),
            faults: happened.iter().map(|one| (one.draw, one.fault)).collect(),
        }
    }

    /// Whether everything held.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// How often each fault and consequence happened.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        let mut counts = self.consequences.clone();
        for (_, fault) in &self.faults {
            *counts.entry(*fault).or_default() += 1;
        }
        counts
    }
}

/// Most lines of a story that are shown, from its beginning and from its end.
const MAX_BEGINNING: usize = 150;
const MAX_END: usize = 350;

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "profile {}, seed {}: {} faults", self.profile, self.seed, self.faults.len())?;
        let all: Vec<_> = self.story.iter().collect();
        show(f, &all)?;
        if let Some(id) = self.violations.iter().find_map(|violation| id_in(violation)) {
            writeln!(f, "of {id} alone:")?;
            let about = |(_, line): &&(Duration, String)| line.contains(id);
            show(f, &self.story.iter().filter(about).collect::<Vec<_>>())?;
        }
        for violation in &self.violations {
            writeln!(f, "violated: {violation}")?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, lines: &[&(Duration, String)]) -> fmt::Result {
    let left_out = lines.len().saturating_sub(MAX_BEGINNING + MAX_END);
    for (n, (at, line)) in lines.iter().enumerate() {
        if n == MAX_BEGINNING && left_out > 0 {
            writeln!(f, "              … {left_out} lines …")?;
        }
        if n < MAX_BEGINNING || n >= MAX_BEGINNING + left_out {
            writeln!(f, "{:>12.6} s  {line}", at.as_secs_f64())?;
        }
    }
    Ok(())
}

/// The ID that a broken rule is about: with its entity, if the rule names it.
fn id_in(violation: &str) -> Option<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let is_id = |word: &&str| word.rsplit('.').next().is_some_and(|id| id.starts_with(KEY));
    violation.split(|c| !is_part(c)).find(is_id)
}

/// The report on a run that broke a rule, with the shortest one that still does.
pub(crate) fn failure(first: &Outcome, small: &Outcome) -> String {
    format!(
        "{small}\n{} of {} faults are needed. To run it again:\n    {}\n",
        small.faults.len(),
        first.faults.len(),
        command(first.profile, first.seed)
    )
}

/// The results of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Virtual time that passed in all of them.
    pub elapsed: Duration,
    /// Callbacks.
    pub calls: u64,
    /// Longest time from a commit of the owner until the read model had that version or a later one.
    pub latest: Duration,
    /// How often each fault and consequence happened.
    pub faults: BTreeMap<Fault, u64>,
    /// Faults that cannot happen to these services.
    pub(crate) impossible: BTreeSet<Fault>,
    /// Only a part was run, because of `SIMULATION_SEED` or `SIMULATION_PROFILE`.
    pub(crate) is_part: bool,
}

impl Summary {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.elapsed += outcome.elapsed;
        self.calls += outcome.calls;
        self.latest = self.latest.max(outcome.latest);
        self.impossible.extend(&outcome.impossible);
        for (fault, count) in outcome.faults() {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    /// Faults of the profile, and consequences, that never happened although they could: nobody would notice
    /// an edited row of a service without [`Apply::read`](nudge_subscriber_kit::Apply::read). With
    /// `SIMULATION_SEED` set, that means nothing, and the list is empty.
    pub fn never(&self, profile: Profile) -> Vec<Fault> {
        if self.is_part {
            return Vec::new();
        }
        let kinds = profile.faults().iter().map(|(fault, _)| fault);
        let kinds = kinds.chain(profile.consequences()).copied();
        kinds
            .filter(|fault| !self.faults.contains_key(fault) && !self.impossible.contains(fault))
            .collect()
    }

    /// Programs that crashed.
    pub fn crashes(&self) -> u64 {
        let crash = |fault: &Fault| format!("{fault}").starts_with("Crash");
        self.faults.iter().filter(|(fault, _)| crash(fault)).map(|(_, count)| count).sum()
    }
}
