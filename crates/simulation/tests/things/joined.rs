//! A service that follows two entities, with one database, and keeps a table that it joins of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
};

use nudge_runtime::{BoxError, Database, Tx, database::Migration};
use nudge_simulation::{Outcome, Profile, Random, Service, Simulation, State, States};
use nudge_subscriber_kit::{Apply, EntityState, Mirror};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::things::{failing::Forgetful, seeds, thing::others};

/// What there is of each entity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Number {
    n: i64,
}

/// The sums of those of both that have the same ID.
const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "sums",
    sqlite: "CREATE TABLE total (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
    postgres: "CREATE TABLE total (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
}];

/// One of the two entities, and whether the sums are made again when it changes.
#[derive(Clone, Copy)]
struct Summand {
    entity: &'static str,
    adds: bool,
}

struct Keep {
    mirror: Mirror<Number>,
    adds: bool,
}

impl Apply for Keep {
    type State = Number;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        self.mirror.prepare(db).await?;
        Ok(db.migrate("sums", MIGRATIONS).await?)
    }

    async fn apply(&self, tx: &mut Tx, all: &[EntityState<Number>]) -> Result<(), BoxError> {
        self.mirror.apply(tx, all).await?;
        if self.adds {
            for sql in [
                "DELETE FROM total",
                "INSERT INTO total SELECT t.id, t.n + o.n FROM thing AS t JOIN other AS o ON o.id = t.id",
            ] {
                sqlx::query(sql).execute(&mut **tx).await?;
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        self.mirror.read(tx, ids).await
    }
}

impl Service for Summand {
    type Handler = Keep;

    fn entity(&self) -> &'static str {
        self.entity
    }

    fn handler(&self, _: &Database) -> Keep {
        Keep { mirror: Mirror::table(self.entity), adds: self.adds }
    }

    fn state(&self, random: &mut Random) -> Value {
        json!({"n": random.below(5)})
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        Mirror::<Number>::table(self.entity).read_all(tx).await
    }

    fn joined(&self, states: &BTreeMap<&'static str, States>) -> Value {
        let number = |one: &State| one.state.as_ref()?["n"].as_i64();
        let sums = states["thing"].iter().filter_map(|(id, thing)| {
            let other = states["other"].get(id)?;
            Some((id, number(thing)? + number(other)?))
        });
        json!(sums.collect::<BTreeMap<_, _>>())
    }

    async fn read_joined(&self, db: &Database) -> Result<Value, BoxError> {
        let reading = sqlx::query_as("SELECT id, n FROM total").fetch_all(db.reader());
        let rows: Vec<(String, i64)> = db.run(reading).await?;
        Ok(json!(BTreeMap::from_iter(rows)))
    }
}

/// A service of both.
fn sums(other_adds: bool) -> Simulation {
    let of = |entity, adds| Summand { entity, adds };
    Simulation::of("sums", of("thing", true)).also(of("other", other_adds))
}

/// What is said when a run of these seeds breaks a rule.
fn failure(simulation: &Simulation, profile: Profile) -> String {
    let found = catch_unwind(AssertUnwindSafe(|| simulation.explore(profile, 0..100)));
    *found.expect_err("it fails").downcast::<String>().expect("a text")
}

/// Whether the story says this of a run.
fn tells(outcome: &Outcome, part: &str) -> bool {
    outcome.story.iter().any(|(_, line)| line.contains(part))
}

#[test]
fn a_service_follows_two_entities_of_one_owner_or_of_two_whatever_happens() {
    let from = seeds().start;
    // Runs of two entities take three times as long as those of one.
    let some = |part| from..from + (seeds().count() as u64).div_ceil(part);
    let faults = |profile: Profile| profile.faults().iter().map(|(fault, _)| *fault);
    let mut awaited: BTreeSet<_> = Profile::ALL.into_iter().flat_map(faults).collect();
    for profile in Profile::ALL {
        let summaries = [
            sums(true).explore(profile, some(60)),
            sums(true).one_owner().explore(profile, some(100)),
            sums(true).replicas(2).explore(profile, some(200)),
            // A service that follows only one of them beside it.
            sums(true).and("others", others()).explore(profile, some(200)),
        ];
        for summary in summaries {
            let never = summary.never(profile);
            faults(profile).filter(|fault| !never.contains(fault)).for_each(|fault| {
                awaited.remove(&fault);
            });
        }
    }
    assert!(awaited.is_empty(), "these never happen: {awaited:?}");
}

#[test]
fn two_entities_have_one_story_for_each_seed() {
    for profile in Profile::ALL {
        for seed in 0..3 {
            let (one, two) = (sums(true).run(profile, seed), sums(true).run(profile, seed));
            assert!(one.is_good(), "{one}");
            for (first, second) in one.story.iter().zip(&two.story) {
                assert_eq!(first, second, "{profile}, seed {seed}");
            }
            assert_eq!(one.hash, two.hash, "{profile}, seed {seed}");
        }
    }
}

#[test]
fn a_join_that_is_made_again_for_only_one_of_its_entities_is_found() {
    let said = failure(&sums(false), Profile::Benign);
    assert!(said.contains("violated: thing: joined, it reads {"), "{said}");
}

#[test]
fn a_failure_names_the_entity_and_shows_the_lines_about_its_key() {
    let both = Simulation::of("both", others()).also(Forgetful { panics: false });
    let said = failure(&both, Profile::HintsOnly);
    assert!(
        said.contains("violated: thing.key-") && !said.contains("violated: other.key-"),
        "{said}"
    );
    let (_, alone) = said.split_once("of thing.key-").expect("the lines about it come once more");
    let (alone, _) = alone.split_once("violated: ").expect("the rule");
    assert!(alone.contains("changes.thing.key-") && !alone.contains("other.key-"), "{said}");
}

#[test]
fn two_owners_crash_apart_and_the_entities_of_one_owner_together() {
    let crash = |simulation: &Simulation| {
        let mut runs = (0..50).map(|seed| simulation.run(Profile::CrashPoints, seed));
        let outcome = runs.find(|outcome| tells(outcome, "relay-0.1 crashes")).expect("a crash");
        assert!(outcome.is_good(), "{outcome}");
        outcome
    };
    let (apart, together) = (crash(&sums(true)), crash(&sums(true).one_owner()));
    for relay in ["thing-relay-0.1 starts", "other-relay-0.1 starts"] {
        assert!(tells(&apart, relay), "{apart}");
        assert!(!tells(&together, relay), "{together}");
    }
    for entity in ["thing", "other"] {
        let publishes = format!("→ broker: changes.{entity}.");
        let mut lines = together.story.iter().map(|(_, line)| line);
        let by_one = lines.any(|line| line.starts_with("relay-0.") && line.contains(&publishes));
        assert!(by_one, "{together}");
    }
}

#[test]
fn each_stream_and_each_owner_is_struck_by_itself() {
    let lost = |entity| format!("the broker loses its stream of {entity}");
    let restored = |entity| format!("the owner of {entity} is restored");
    let mut awaited = Vec::new();
    for (one, other) in [("thing", "other"), ("other", "thing")] {
        awaited.push((lost(one), lost(other)));
        awaited.push((restored(one), restored(other)));
    }
    for seed in 0..200 {
        let outcome = sums(true).run(Profile::Lossy, seed);
        assert!(outcome.is_good(), "{outcome}");
        awaited.retain(|(one, other)| !tells(&outcome, one) || tells(&outcome, other));
        if awaited.is_empty() {
            return;
        }
    }
    panic!("never the first without the second: {awaited:?}");
}
