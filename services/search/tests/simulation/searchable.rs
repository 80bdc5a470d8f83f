//! Search in the simulation: its own `apply`, with its real SQL and its text index.

use std::collections::BTreeMap;

use nudge_runtime::{BoxError, Database, Tx};
use nudge_simulation::{Random, Service};
use search::read_model::{self, Stores};
use serde_json::{Value, json};

pub(crate) struct Searchable;

impl Service for Searchable {
    type Handler = Stores;

    fn entity(&self) -> &'static str {
        "store"
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        Ok(read_model::migrate(db).await?)
    }

    fn handler(&self, _: &Database) -> Stores {
        Stores
    }

    fn state(&self, random: &mut Random) -> Value {
        json!({
            "name": random.one_of(&["달빛국수", "별빛김밥", "it's"]),
            "region": random.one_of(&["마포구", "강남구"]),
            "category": "cafe",
            "open": random.chance(500),
            "menus": [{"name": random.one_of(&["국수", "김밥"]), "price": 5000}],
        })
    }

    /// The row, and by how many of three words the text index finds it.
    fn expected(&self, state: &Value) -> Value {
        let text = state.to_string();
        let words = ["달빛", "별빛", "마포"].iter().filter(|word| text.contains(*word)).count();
        json!([state["name"], state["region"], state["open"], words])
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        let sql = "SELECT s.id, s.name, s.region, s.open, \
                   (SELECT count(*) FROM (SELECT '달빛' AS word UNION ALL SELECT '별빛' UNION ALL SELECT '마포') \
                    WHERE s.row IN (SELECT rowid FROM store_words WHERE store_words MATCH word)) \
                   FROM store AS s";
        let rows: Vec<(String, String, String, i64, i64)> =
            sqlx::query_as(sql).fetch_all(&mut **tx).await?;
        let row = |(id, name, region, open, words)| (id, json!([name, region, open == 1, words]));
        Ok(rows.into_iter().map(row).collect())
    }
}
