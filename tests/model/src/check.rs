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

/// Maximum number of distinct states of all scenarios of [`WHOLE`](crate::WHOLE) together: about a minute's work for
/// two cores that also run other tests. Unlike time, a count is the same everywhere.
pub const MAX_STATES: usize = 10_000_000;
/// Maximum number of states that one check generates, including repeated ones. A scenario with far too many should
/// fail, not bring the machine to a halt.
const MAX_GENERATED: usize = 5 * MAX_STATES;

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The scenario that was checked.
    pub scenario: Scenario,
    /// Number of distinct states visited.
    pub states: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether everything that the scenario allows happened on some path.
    pub used_up: bool,
    /// The shortest path to a state that violates a property.
    pub counterexample: Option<Counterexample>,
}

/// A sequence of events, and the property that does not hold after it.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The property that does not hold.
    pub property: &'static str,
    /// One line per step.
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
        write!(f, "\n  after {} steps, this does not hold: {}", found.trace.len(), found.property)?;
        found.trace.iter().try_for_each(|step| write!(f, "\n    {step}"))
    }
}

/// Checks a scenario until its states are exhausted or a property is violated.
pub fn check(scenario: Scenario) -> Checked {
    let mut checked = visit(scenario, None, false, MAX_GENERATED);
    // People read traces, so replica 0 must stay replica 0.
    if checked.counterexample.is_some() {
        checked = visit(scenario, None, true, MAX_GENERATED);
    }
    // The checker continues for a while after finding a path, and keeps the last one. So it is asked for shorter ones
    // until there are none.
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
        // It counts states, including the first, and excludes those at the maximum depth itself.
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

/// A path on which the protocol could loop forever without faults and edits, if there is one.
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
