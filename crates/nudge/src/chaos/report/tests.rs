use serde_json::{Value, json};

use super::*;
use crate::chaos::plan::Plan;

fn report(converged_after: Option<f64>, differences: usize, surprises: &[&str]) -> Report {
    let difference = Difference {
        service: "search".to_owned(),
        entity: "store",
        id: None,
        what: "name".to_owned(),
        expected: Value::Null,
        found: json!("x"),
    };
    let differences = vec![difference; differences];
    let ending = Ending { converged_after, differences, ..Ending::default() };
    report_of(ending, surprises)
}

fn report_of(ending: Ending, surprises: &[&str]) -> Report {
    let plan = Plan::generate(7, 30_000, Databases::Sqlite, 1);
    let written = Written { made: 12, changes: 10, ..Written::default() };
    let mut state = State::default();
    plan.faults.iter().enumerate().take(3).for_each(|(n, fault)| state.began(n, fault));
    let mut search = Follower { name: "search".to_owned(), ..Follower::default() };
    search.callbacks.note(3);
    search.asked.note(30);
    state.subscribers.push(search);
    let surprises = surprises.iter().map(ToString::to_string).collect();
    let mut report = Report::new(
        &plan,
        Databases::Sqlite,
        &written,
        state,
        &Counts::default(),
        ending,
        surprises,
    );
    report.kept(Some("/tmp/it's a plan.json".into()), None, " --and more");
    report
}

#[test]
fn only_the_same_without_surprise_is_a_success() {
    assert_eq!(report(Some(1.0), 0, &[]).verdict, Verdict::Converged);
    assert_eq!(report(Some(1.0), 0, &["it ended"]).verdict, Verdict::Surprised);
    assert_eq!(report(None, 1, &[]).verdict, Verdict::Diverged);
    assert_eq!(report(None, 0, &[]).verdict, Verdict::Diverged, "nobody could be asked");
}

/// Neither a success nor a fault of what was to be tested.
#[test]
fn a_run_that_could_not_be_carried_out_says_why() {
    let why = "the database server: `start`: no space left".to_owned();
    let broken = vec![why.clone()];
    let report = report_of(Ending { broken, ..Ending::default() }, &["search ended by itself"]);
    assert_eq!(report.verdict, Verdict::NotTested);
    let text = report.lines().join("\n");
    assert!(text.contains(&format!("could not be done: {why}")), "{text}");
    assert!(text.ends_with(&format!("not tested, since the run itself failed: {why}")), "{text}");
    assert_eq!(serde_json::to_value(&report).unwrap()["verdict"], "not-tested");
}

#[test]
fn kinds_that_never_happened_are_named_and_the_figures_add_up() {
    let report = report(Some(1.0), 0, &[]);
    assert_eq!(report.faults.len() + report.never.len(), Kind::ALL.len());
    assert_eq!(report.callbacks_per_change, 3.0 / 50.0);
    assert_eq!(report.stores_asked_per_change, 30.0 / 50.0);
    let text = report.lines().join("\n");
    let calls = "at least 0.06 calls to the owner, of up to 256 stores each, and 0.60 stores";
    assert!(text.contains(calls), "{text}");
    for kind in &report.never {
        assert!(text.contains(&kind.to_string()), "{text}");
    }
    assert!(report.replay.is_none() && text.ends_with("after the last fault and edit"), "{text}");
    assert_eq!(serde_json::to_value(&report).unwrap()["verdict"], "converged");
}

#[test]
fn a_failure_says_what_differs_and_how_to_see_it_again() {
    let report = report(None, MAX_DIFFERENCES + 5, &[]);
    let text = report.lines().join("\n");
    assert!(text.contains(r#"differs: search: name is "x", and should be null"#), "{text}");
    assert!(text.contains("differs: 5 more"), "{text}");
    assert!(
        text.contains(r"again: nudge chaos replay '/tmp/it'\''s a plan.json' --and more"),
        "{text}"
    );
    assert!(text.ends_with("did not converge: 45 differences"), "{text}");
}

#[test]
fn what_was_planted_must_be_found() {
    let planted = Ending { planted: 14, ..Ending::default() };
    let found = Ending { converged_after: Some(1.0), found_after: Some(20.0), ..planted };
    let report = report_of(found, &[]);
    assert_eq!(report.verdict, Verdict::Converged);
    let text = report.lines().join("\n");
    assert!(text.contains("14 planted differences: all found and repaired 20.0 s after"), "{text}");
    let report = report_of(Ending { planted: 14, ..Ending::default() }, &[]);
    assert_eq!(report.verdict, Verdict::Diverged);
    let text = report.lines().join("\n");
    assert!(text.contains("14 planted differences: not all were found"), "{text}");
}
