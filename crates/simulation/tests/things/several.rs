//! Any number of services on one owner, and of replicas of each.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use nudge_runtime::{
    BoxError, Database, Tx,
    set_sql::{Column, rows},
};
use nudge_simulation::{Fault, Outcome, Profile, Random, Service, Simulation};
use nudge_subscriber_kit::{Apply, EntityState};
use serde_json::{Value, json};

use crate::things::{failing::Forgetful, seeds, thing::Things};

/// Keeps twice the number of each thing, and asks for nothing else.
struct Doubles;

struct KeepDoubles(Database);

impl Apply for KeepDoubles {
    type State = BTreeMap<String, i64>;
    async fn apply(
        &self,
        tx: &mut Tx,
        things: &[EntityState<Self::State>],
    ) -> Result<(), BoxError> {
        let twice =
            |thing: &EntityState<Self::State>| thing.state.as_ref().map(|state| state["n"] * 2);
        let row = |thing: &EntityState<Self::State>| json!({"id": thing.id, "twice": twice(thing)});
        let batch = Value::from_iter(things.iter().map(row)).to_string();
        let from = rows(self.0.kind(), "$1", &[Column::Text("id"), Column::Int("twice")]);
        let upsert = format!(
            "INSERT INTO doubled (id, twice) SELECT r.id, r.twice FROM {from} WHERE true \
             ON CONFLICT (id) DO UPDATE SET twice = excluded.twice"
        );
        sqlx::query(sqlx::AssertSqlSafe(upsert)).bind(batch).execute(&mut **tx).await?;
        Ok(())
    }
}

impl Service for Doubles {
    type Handler = KeepDoubles;

    fn entity(&self) -> &'static str {
        "thing"
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        db.write(sqlx::query("CREATE TABLE doubled (id TEXT PRIMARY KEY, twice INTEGER)")).await?;
        Ok(())
    }

    fn handler(&self, db: &Database) -> KeepDoubles {
        KeepDoubles(db.clone())
    }

    fn state(&self, _: &mut Random) -> Value {
        unreachable!("the first service says what states there are")
    }

    fn expected(&self, state: &Value) -> Value {
        json!(state["n"].as_i64().map(|n| n * 2))
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        let sql = "SELECT id, twice FROM doubled WHERE twice IS NOT NULL";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|(id, twice)| (id, twice.into())).collect())
    }
}

/// Three services, two of which keep the same.
fn three() -> Simulation {
    Simulation::of("whole", Things).and("doubles", Doubles).and("again", Things)
}

/// The story's lines that hold this.
fn lines(outcome: &Outcome, part: &str) -> usize {
    outcome.story.iter().filter(|(_, line)| line.contains(part)).count()
}

#[test]
fn three_services_follow_one_owner_with_as_many_replicas_as_one_likes() {
    let from = seeds().start;
    let some = |part| from..from + seeds().count() as u64 / part;
    for profile in Profile::ALL {
        three().explore(profile, some(30));
        three().replicas(2).explore(profile, some(60));
        Simulation::of("many", Things).replicas(5).explore(profile, some(60));
    }
}

#[test]
fn each_service_is_told_of_everything_and_one_of_its_replicas_gets_it() {
    // Where nothing is poisoned, nothing is started again, and no message comes twice.
    let mut runs = (0..100).map(|seed| three().replicas(2).run(Profile::Benign, seed));
    let outcome = runs.find(|outcome| !outcome.faults().contains_key(&Fault::Poison));
    let outcome = outcome.expect("a run without poison");
    assert!(outcome.is_good(), "{outcome}");
    for program in ["relay", "whole", "doubles", "again"] {
        for replica in 0..2 {
            assert_eq!(lines(&outcome, &format!("{program}-{replica}.1 starts")), 1, "{outcome}");
        }
    }
    let published =
        (0..2).map(|n| lines(&outcome, &format!("relay-{n}.1 → broker"))).sum::<usize>();
    for service in ["whole", "doubles", "again"] {
        let told = lines(&outcome, &format!("broker → {service}-"));
        // Both replicas of each would be twice as many, and one service alone a third.
        assert!(told > published / 2, "{service} is told {told} times of {published}: {outcome}");
        assert!(told <= published, "{service} is told {told} times of {published}: {outcome}");
    }
}

#[test]
fn several_services_have_one_story_for_each_seed() {
    for profile in Profile::ALL {
        let (one, two) = (three().replicas(2).run(profile, 7), three().replicas(2).run(profile, 7));
        assert!(one.is_good(), "{one}");
        assert_eq!(one.hash, two.hash, "{profile}");
    }
}

#[test]
fn a_fault_of_one_service_is_told_with_its_name() {
    let both = Simulation::of("whole", Things).and("forgets", Forgetful { panics: false });
    let found = catch_unwind(AssertUnwindSafe(|| both.explore(Profile::HintsOnly, 0..100)));
    let said = *found.expect_err("it fails").downcast::<String>().expect("a text");
    assert!(said.contains("violated: forgets: key-"), "{said}");
    assert!(!said.contains("violated: whole: "), "{said}");
}

#[test]
fn what_cannot_be_in_one_simulation_is_refused() {
    let refused = |add: fn(Simulation) -> Simulation| {
        let made = catch_unwind(|| add(Simulation::of("things", Things)));
        *made.expect_err("it is refused").downcast::<String>().expect("a text")
    };
    let said = refused(|things| things.also(Doubles));
    assert!(said.contains("things follows thing already"), "{said}");
    for name in ["things", "relay", "thing-relay", ""] {
        let made = catch_unwind(|| Simulation::of("things", Things).and(name, Doubles));
        assert!(made.is_err(), "{name:?}");
    }
    assert!(catch_unwind(|| Simulation::of("things", Things).replicas(0)).is_err());
}
