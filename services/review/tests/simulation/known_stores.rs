//! Review, as the simulation knows it: its own `apply`, with its real SQL.

use std::collections::BTreeMap;

use nudge_runtime::{BoxError, Database, Tx};
use nudge_simulation::{Random, Service};
use review::stores::{self, KeepStores};
use serde_json::{Value, json};

pub(crate) struct KnownStores;

impl Service for KnownStores {
    const ENTITY: &'static str = "store";

    type Handler = KeepStores;

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        Ok(db.migrate(stores::COMPONENT, stores::MIGRATIONS).await?)
    }

    fn handler(&self, db: &Database) -> KeepStores {
        KeepStores::new(db)
    }

    fn state(&self, random: &mut Random) -> Value {
        let name = *random.one_of(&["달빛국수", "별빛김밥", "it's"]);
        json!({"name": name, "open": random.chance(500), "phone": "02-123"})
    }

    fn expected(&self, state: &Value) -> Value {
        json!({"name": state["name"], "open": state["open"]})
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        let sql = "SELECT id, name, open FROM known_store WHERE deleted = 0";
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(&mut **tx).await?;
        let row = |(id, name, open)| (id, json!({"name": name, "open": open == 1}));
        Ok(rows.into_iter().map(row).collect())
    }
}
