//! The protocol holds in every state, and every rule is necessary.

use std::{
    fs,
    io::{Write, stdout},
    path::Path,
    time::Instant,
};

use nudge_model::{Checked, Code, MAX_STATES, Rule, Scenario, WHOLE, check, endless, without};

/// Prints a line, bypassing the test runner, which would capture it.
fn say(text: &str) {
    writeln!(stdout().lock(), "{text}").unwrap();
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn checked(scenario: Scenario) -> Checked {
    let checked = check(scenario);
    say(&checked.to_string());
    checked
}

#[test]
fn the_whole_protocol_holds_in_every_state() {
    let mut states = 0;
    for scenario in WHOLE {
        let checked = checked(scenario);
        assert!(checked.counterexample.is_none(), "{checked}");
        assert!(checked.used_up, "{}: something that it allows never happens", scenario.name);
        states += checked.states;
    }
    say(&format!("all scenarios: {states} states"));
    assert!(states <= MAX_STATES, "{states} states take too long: make a scenario smaller");
}

#[test]
fn whatever_is_scheduled_next_it_comes_to_an_end() {
    for scenario in WHOLE {
        let begun = Instant::now();
        let circle = endless(scenario);
        assert!(circle.is_none(), "{}: {circle:?}", scenario.name);
        say(&format!("{}: no cycle, {:.2} s", scenario.name, begun.elapsed().as_secs_f64()));
    }
}

/// In the same scenario, with nothing else removed, so that the fault is due to the rule.
#[test]
fn without_any_one_rule_something_goes_wrong_and_with_it_nothing_does() {
    for rule in Rule::ALL {
        let missing = checked(without(rule));
        assert!(missing.counterexample.is_some(), "nothing fails without {rule:?}");
        let kept = check(Scenario { without: None, ..without(rule) });
        assert!(kept.counterexample.is_none(), "{kept}");
    }
}

/// Relays that check the stream would hide what these rules prevent, or never finish.
#[test]
fn relays_are_blind_only_where_a_rule_is_not_missed_otherwise() {
    let blind: Vec<_> = Rule::ALL.into_iter().filter(|rule| without(*rule).blind).collect();
    let looking = |rule: Rule| Scenario { blind: false, ..without(rule) };
    assert!(blind.iter().all(|rule| check(looking(*rule)).counterexample.is_none()));
    let endlessly: Vec<_> =
        blind.iter().filter(|rule| endless(looking(**rule)).is_some()).collect();
    assert_eq!((blind.len(), endlessly), (6, vec![&Rule::MarkBySequence]));
}

#[test]
fn the_table_of_the_crate_page_is_what_is_found() {
    let page = read("tests/model/README.md");
    let mut lacking = Vec::new();
    for rule in Rule::ALL {
        let found = check(without(rule)).counterexample.expect("a counter-example");
        let code = rule.code().map_or("not kept yet".to_owned(), |code| {
            format!("`{}` in `{}`", name(code), code.path)
        });
        let row = format!("| `{rule:?}` | {code} | {} |", found.trace.len());
        lacking.extend((!page.lines().any(|line| line == row)).then_some(row));
    }
    assert!(lacking.is_empty(), "the page lacks\n{}", lacking.join("\n"));
}

/// If the code of a rule moves or disappears, its name here must follow.
#[test]
fn each_rule_names_code_that_is_there() {
    let documented = read("tests/model/src/rule.rs");
    for code in Rule::ALL.into_iter().filter_map(Rule::code) {
        let source = read(code.path);
        assert!(holds(&source, code.owner, code.function), "{code:?} does not exist");
        let documentation = format!("`{}`, `{}`", code.path, name(code));
        assert!(documented.contains(&documentation), "{code:?} is not documented");
    }
    let source = read("crates/subscriber-kit/src/work/outcome.rs");
    assert!(holds(&source, None, "judge") && !holds(&source, Some("Reason"), "judge"));
}

/// The function's full name, as in code.
fn name(code: Code) -> String {
    let owner = code.owner.map(|owner| format!("{owner}::")).unwrap_or_default();
    format!("{owner}{}", code.function)
}

/// Whether a file defines a function, as a method of the type if one is named.
fn holds(source: &str, owner: Option<&str>, function: &str) -> bool {
    let defines = |line: &str| line.contains(&format!("fn {function}("));
    let Some(owner) = owner else {
        let at_the_margin = |line: &&str| !line.starts_with(' ');
        return source.lines().filter(at_the_margin).any(defines);
    };
    let blocks = source.split("\nimpl").skip(1);
    blocks.filter_map(|block| block.split_once('{')).any(|(head, body)| {
        let of_owner = head.split(|c: char| !c.is_alphanumeric()).any(|word| word == owner);
        let body = body.split("\n}").next().unwrap_or_default();
        of_owner && body.lines().any(defines)
    })
}
