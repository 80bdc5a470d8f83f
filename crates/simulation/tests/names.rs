//! `tests/names.rs`: a service that keeps the name of each store, through everything that can happen.

use std::collections::BTreeMap;

use nudge_simulation::{Profile, Random, Service, explore};
use nudge_subscriber_kit::runtime::{BoxError, Database, Tx, set_sql::Set};
use nudge_subscriber_kit::{Apply, EntityState};
use serde_json::{Value, json};

/// Your `apply`, as in production.
struct Names;

impl Apply for Names {
    type State = Value;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Value>]) -> Result<(), BoxError> {
        let name = |e: &EntityState<Value>| e.state.as_ref().map(|store| store["name"].clone());
        let row = |e: &EntityState<Value>| json!({"id": e.id, "name": name(e)});
        let rows: Vec<_> = entities.iter().map(row).collect();
        Set::new(tx, "names", &rows)?.upsert(tx).await?;
        Ok(())
    }
}

/// What the simulation has to know besides.
struct KeepsNames;

impl Service for KeepsNames {
    type Handler = Names;

    fn entity(&self) -> &'static str {
        "store"
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        let table = "CREATE TABLE names (id TEXT PRIMARY KEY, name TEXT)";
        db.write(sqlx::query(table)).await?;
        Ok(())
    }

    fn handler(&self, _: &Database) -> Names {
        Names
    }

    /// Some state that the owner may answer.
    fn state(&self, random: &mut Random) -> Value {
        json!({"name": random.one_of(&["달빛국수", "별빛김밥"])})
    }

    /// What a reader sees of it. Left out, that is all of it.
    fn expected(&self, state: &Value) -> Value {
        state["name"].clone()
    }

    /// Everything that a reader sees now.
    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        let sql = "SELECT id, name FROM names WHERE name IS NOT NULL";
        let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|(id, name)| (id, Value::from(name))).collect())
    }
}

#[test]
fn every_copy_ends_up_as_its_owner() {
    for profile in Profile::ALL {
        let summary = explore(KeepsNames, profile, 0..150);
        assert_eq!(summary.never(profile), [], "every fault of the profile has happened");
    }
}
