//! Visits every state of a scenario.

use std::{
    fmt,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    circle,
    protocol::{Action, Protocol, USED_UP},
    scenario::Scenario,
};

/// Most different states of all scenarios of [`WHOLE`](crate::WHOLE) together: about a minute's work for
/// two cores, busy with other tests besides. A count is the same everywhere, and time is not.
pub const MAX_STATES: usize = 10_000_000;
/// Most states that one check generates, the same ones again and again included. A scenario with far too
/// many is to be a failure, and not a machine that stands still.
const MAX_GENERATED: usize = 5 * MAX_STATES;

/// What a check found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What was checked.
    pub scenario: Scenario,
    /// Different states that were visited.
    pub states: usize,
    /// How long that took.
    pub took: Duration,
    /// Whether all that the scenario allows did happen on some way.
    pub used_up: bool,
    /// The shortest way to a state that should not be.
    pub counterexample: Option<Counterexample>,
}

/// What happened, and what does not hold after it.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The property that does not hold.
    pub property: &'static str,
    /// One line for each step.
    pub trace: Vec<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scenario.without {
            Some(rule) => write!(f, "without {rule:?}")?,
            None => write!(f, "{}", self.scenario.name)?,
        }
        write!(f, ": {} states, {:.2} s", self.states, self.took.as_secs_f64())?;
        let Some(found) = &self.counterexample else { return Ok(()) };
        write!(
            f,
            "\n  after {} steps it does not hold that {}:",
            found.trace.len(),
            found.property
        )?;
        found.trace.iter().try_for_each(|step| write!(f, "\n    {step}"))
    }
}

/// Checks a scenario, until its states are exhausted or a property is seen not to hold.
pub fn check(scenario: Scenario) -> Checked {
    let mut checked = visit(scenario, None, false, MAX_GENERATED);
    // A trace is read by people: there replica 0 stays replica 0.
    if checked.counterexample.is_some() {
        checked = visit(scenario, None, true, MAX_GENERATED);
    }
    // The checker goes on for a while after it found one, and keeps the last that it found. So it
    // is asked for shorter ones until there are none.
    while let Some(found) = &checked.counterexample {
        let shorter = visit(scenario, Some(found.trace.len()), true, MAX_GENERATED);
        if shorter.counterexample.is_none() {
            break;
        }
        checked = shorter;
    }
    checked
}

fn visit(
    scenario: Scenario,
    fewer_steps_than: Option<usize>,
    named: bool,
    max_generated: usize,
) -> Checked {
    let begun = Instant::now();
    let protocol = Protocol { scenario, named };
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = match fewer_steps_than {
        // It counts states, the first included, and leaves out those at the depth itself.
        Some(steps) => checker.target_max_depth(steps + 1),
        None => checker,
    };
    let checker = checker.target_state_count(max_generated).spawn_bfs().join();
    let generated = checker.state_count();
    assert!(generated < max_generated, "{}: too many states, {generated} at least", scenario.name);
    let mut discoveries = checker.discoveries();
    let used_up = discoveries.remove(USED_UP).is_some();
    let found = discoveries.into_iter().map(|(property, path)| {
        let trace = path.into_actions().iter().map(Action::to_string).collect();
        Counterexample { property, trace }
    });
    let counterexample = found.min_by_key(|found| (found.trace.len(), found.property));
    let states = checker.unique_state_count();
    Checked { scenario, states, took: begun.elapsed(), used_up, counterexample }
}

/// A path on which the protocol could loop forever without a fault or an edit, if there is one.
pub fn endless(scenario: Scenario) -> Option<Vec<Action>> {
    circle::circle(&Protocol { scenario, named: false }, |action| action.is_progress())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "created, deleted, created: too many states")]
    fn a_scenario_with_too_many_states_is_given_up() {
        visit(crate::WHOLE[0], None, false, 10_000);
    }
}
