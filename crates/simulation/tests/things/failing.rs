//! What a failure looks like: the rule that is broken, a story that is shorter than it was, and a command
//! that fails again.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use nudge_runtime::{BoxError, Database, Tx, database::Migration};
use nudge_simulation::{Mirrored, Profile, Random, Service, explore};
use nudge_subscriber_kit::{Apply, EntityState, Mirror};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::things::{
    thing::{Keep, Things},
    things,
};

/// An `apply` with the fault that is made most often.
pub(crate) struct ForgetsDeletes(Keep);

impl Apply for ForgetsDeletes {
    type State = Value;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Value>]) -> Result<(), BoxError> {
        let live: Vec<_> = entities.iter().filter(|one| one.state.is_some()).cloned().collect();
        self.0.apply(tx, &live).await
    }
}

/// Things with such an `apply`; or with tests that panic.
pub(crate) struct Forgetful {
    pub(crate) panics: bool,
}

impl Service for Forgetful {
    type Handler = ForgetsDeletes;

    fn entity(&self) -> &'static str {
        "thing"
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        Things.migrate(db).await
    }

    fn handler(&self, db: &Database) -> ForgetsDeletes {
        ForgetsDeletes(Things.handler(db))
    }

    fn state(&self, random: &mut Random) -> Value {
        Things.state(random)
    }

    fn expected(&self, state: &Value) -> Value {
        assert!(!self.panics, "no idea what to expect of {state}");
        Things.expected(state)
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        Things.read(tx).await
    }
}

/// What is said of the first seed that fails, in a test of this name.
fn failure(service: impl Service, seeds: std::ops::Range<u64>) -> String {
    let explored = std::thread::Builder::new().name("keeps_names".to_owned()).spawn(move || {
        let explored =
            catch_unwind(AssertUnwindSafe(|| explore(service, Profile::HintsOnly, seeds)));
        *explored.expect_err("it fails").downcast::<String>().expect("a text")
    });
    explored.expect("a thread").join().expect("no panic")
}

/// The number that stands before these words.
fn number_before(text: &str, words: &str) -> usize {
    let before = text.split(words).next().expect("some text");
    before.split_whitespace().last().expect("a word").parse().expect("a number")
}

#[test]
fn a_failure_is_short_and_names_the_rule_and_the_command() {
    let said = failure(Forgetful { panics: false }, 0..100);
    assert!(said.contains("violated: key-") && said.contains("reads Some("), "{said}");
    assert!(said.contains("of key-"), "the lines about that key come once more: {said}");
    let needed_line =
        said.lines().find(|line| line.ends_with("faults are needed. To run it again:"));
    let needed_line = needed_line.unwrap_or_else(|| panic!("{said}"));
    // It takes no fault at all to find it.
    assert!(needed_line.starts_with("0 of "), "{needed_line}");
    assert!(number_before(needed_line, " faults are") > 0, "{needed_line}");
    assert!(!said.contains("fault: "), "a story without faults: {said}");
    let command = said.lines().last().expect("a command").trim();
    let seed =
        command.strip_prefix("SIMULATION_PROFILE=hints-only SIMULATION_SEED=").expect(command);
    let (seed, rest) = seed.split_once(' ').expect(command);
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    assert_eq!(rest, format!("cargo test{release} -p nudge-simulation keeps_names -- --exact"));
    // What the command runs.
    let seed: u64 = seed.parse().expect("a number");
    let again = failure(Forgetful { panics: false }, seed..seed + 1);
    assert_eq!(again, said);
    assert!(things().run(Profile::HintsOnly, seed).is_good());
}

#[test]
fn a_panic_is_told_with_its_seed_and_its_story() {
    let said = failure(Forgetful { panics: true }, 0..1);
    assert!(said.contains("violated: a panic: no idea what to expect of {\"n\":"), "{said}");
    assert!(said.contains("SIMULATION_SEED=0 ") && said.contains("owner changes key-"), "{said}");
}

#[derive(Serialize, Deserialize)]
struct Number {
    n: i64,
}

/// Numbers, of which each write is noted in a table of the service's own.
fn noted() -> Mirror<Number> {
    Mirror::table("number").with(|tx, _| {
        Box::pin(async move {
            sqlx::query("INSERT INTO note (n) VALUES (1)").execute(&mut **tx).await?;
            Ok(())
        })
    })
}

const NOTE: &str = "CREATE TABLE note (n BIGINT NOT NULL)";
const NOTES: &[Migration] = &[Migration { number: 1, title: "note", sqlite: NOTE, postgres: NOTE }];

#[test]
fn an_apply_that_fails_by_itself_is_told_with_its_reason_until_its_own_tables_are_there() {
    let numbers = || Mirrored::new("number", noted, |random| json!({"n": random.one_of(&[1, 2])}));
    let said = failure(numbers(), 0..1);
    assert!(said.contains(" fails in its apply: "), "{said}");
    assert!(said.contains("no such table: note"), "{said}");
    explore(numbers().keeps("notes", NOTES), Profile::HintsOnly, 0..3);
}
