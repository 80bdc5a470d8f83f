//! A service that keeps each thing's whole state.

use std::{collections::BTreeMap, ops::RangeInclusive};

use nudge_runtime::{
    BoxError, Database, Tx,
    database::Migration,
    set_sql::{Column, rows},
};
use nudge_simulation::{Mirrored, Random, Service, Simulation, mutant::Mutant};
use nudge_subscriber_kit::{Apply, EntityState, Mirror};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "copies",
    sqlite: "CREATE TABLE copy (id TEXT PRIMARY KEY, state TEXT)",
    postgres: "CREATE TABLE copy (id TEXT COLLATE \"C\" PRIMARY KEY, state TEXT)",
}];

pub(crate) struct Things;

pub(crate) struct Keep(Database);

impl Apply for Keep {
    type State = Value;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Value>]) -> Result<(), BoxError> {
        let row = |entity: &EntityState<Value>| {
            let state = entity.state.as_ref().map(Value::to_string);
            json!({"id": entity.id, "state": state})
        };
        let batch = Value::from_iter(entities.iter().map(row)).to_string();
        let from = rows(self.0.kind(), "$1", &[Column::Text("id"), Column::Text("state")]);
        for sql in [
            format!("DELETE FROM copy WHERE id IN (SELECT r.id FROM {from})"),
            format!("INSERT INTO copy SELECT r.id, r.state FROM {from} WHERE r.state IS NOT NULL"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(batch.clone()).execute(&mut **tx).await?;
        }
        Ok(())
    }

    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        let sql = "SELECT id, state FROM copy WHERE id BETWEEN $1 AND $2";
        let query = sqlx::query_as(sql).bind(ids.start().to_string()).bind(ids.end().to_string());
        let rows: Vec<(String, String)> = query.fetch_all(&mut **tx).await?;
        Ok(Some(rows.into_iter().map(|(id, state)| (id, state.into())).collect()))
    }
}

impl Service for Things {
    type Handler = Keep;

    fn entity(&self) -> &'static str {
        "thing"
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        Ok(db.migrate("copies", MIGRATIONS).await?)
    }

    fn handler(&self, db: &Database) -> Keep {
        Keep(db.clone())
    }

    fn state(&self, random: &mut Random) -> Value {
        json!({"n": random.below(5)})
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT id, state FROM copy").fetch_all(&mut **tx).await?;
        let state = |state: String| serde_json::from_str(&state).unwrap_or(Value::Null);
        Ok(rows.into_iter().map(|(id, text)| (id, state(text))).collect())
    }
}

/// The state of another entity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Other {
    n: u64,
}

/// Another entity, for a service that follows two.
pub(crate) fn others() -> Mirrored<Other> {
    Mirrored::new("other", || Mirror::table("other"), |random| json!({"n": random.below(5)}))
}

/// What a planted fault is looked for in.
pub(crate) fn planted(mutant: Mutant) -> Simulation {
    let things = Simulation::of("subscriber", Things);
    let things = if mutant.mixes_up_entities() { things.also(others()) } else { things };
    things.planted(mutant)
}
