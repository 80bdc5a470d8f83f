//! From the owner's states into the tables: a whole batch in two statements.

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    BoxError, Database, Tx,
    database::Kind,
    set_sql::{self, Column},
};
use nudge_subscriber_kit::{Apply, EntityState};
use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::{
    bigram,
    store::{self, StoreState},
};

/// Keeps the read model in step with the owner of stores.
#[derive(Clone, Copy, Debug)]
pub struct Stores {
    kind: Kind,
}

impl Stores {
    /// For a read model in `db`.
    pub fn new(db: &Database) -> Self {
        Self { kind: db.kind() }
    }
}

impl Apply for Stores {
    type State = StoreState;
    const FIELDS: &'static [&'static str] = store::FIELDS;

    async fn apply(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<StoreState>],
    ) -> Result<(), BoxError> {
        let gone: Vec<_> = entities.iter().filter(|e| e.state.is_none()).map(|e| &e.id).collect();
        if !gone.is_empty() {
            self.run(tx, delete_statements(self.kind), serde_json::to_string(&gone)?).await?;
        }
        let rows: Vec<_> = entities.iter().filter_map(|e| Row::new(self.kind, e)).collect();
        if !rows.is_empty() {
            self.run(tx, upsert_statements(self.kind), serde_json::to_string(&rows)?).await?;
        }
        Ok(())
    }
}

impl Stores {
    /// Runs each statement with the batch as its one parameter.
    async fn run(&self, tx: &mut Tx, sql: Vec<String>, batch: String) -> Result<(), sqlx::Error> {
        for sql in sql {
            sqlx::query(AssertSqlSafe(sql)).bind(&*batch).execute(&mut **tx).await?;
        }
        Ok(())
    }
}

/// A live store on its way into the tables.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a EntityId,
    version: Version,
    name: &'a str,
    category: &'a str,
    region: &'a str,
    open: u8,
    name_key: String,
    words: String,
    text_hash: i64,
}

impl<'a> Row<'a> {
    fn new(kind: Kind, entity: &'a EntityState<StoreState>) -> Option<Self> {
        let state = entity.state.as_ref()?;
        let segments = state.segments();
        let tokens = bigram::document(segments.iter().map(String::as_str));
        let words = match kind {
            Kind::Sqlite => tokens.join(" "),
            Kind::Postgres => {
                let placed =
                    tokens.iter().zip(1..).map(|(token, place)| format!("'{token}':{place}"));
                placed.collect::<Vec<_>>().join(" ")
            }
        };
        Some(Self {
            id: &entity.id,
            version: entity.version,
            name: &state.name,
            category: &state.category,
            region: &state.region,
            open: state.open.into(),
            name_key: state.name_key(),
            text_hash: hash(&words),
            words,
        })
    }
}

/// Tells one document from another. Should the algorithm differ in another release of the standard
/// library, each store is indexed once more than needed.
fn hash(words: &str) -> i64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(words, &mut hasher);
    std::hash::Hasher::finish(&hasher).cast_signed()
}

fn delete_statements(kind: Kind) -> Vec<String> {
    let gone = set_sql::strings(kind, "$1");
    let store = format!("DELETE FROM store WHERE id IN {gone}");
    match kind {
        Kind::Sqlite => {
            let rows = format!("SELECT row FROM store WHERE id IN {gone}");
            vec![format!("DELETE FROM store_words WHERE rowid IN ({rows})"), store]
        }
        Kind::Postgres => vec![store],
    }
}

fn upsert_statements(kind: Kind) -> Vec<String> {
    use Column::{Int, Text};
    let mut columns = vec![Text("id"), Int("version"), Text("name"), Text("category")];
    columns.extend([Text("region"), Int("open"), Text("name_key")]);
    columns.push(match kind {
        Kind::Sqlite => Int("text_hash"),
        Kind::Postgres => Text("words"),
    });
    let batch = set_sql::rows(kind, "$1", &columns);
    let own = "id, version, name, category, region, open, name_key";
    let update = "version = excluded.version, name = excluded.name, \
        category = excluded.category, region = excluded.region, open = excluded.open, \
        name_key = excluded.name_key";
    // `WHERE true` tells SQLite that ON CONFLICT does not belong to a join.
    match kind {
        Kind::Sqlite => {
            let texts = set_sql::rows(kind, "$1", &[Text("id"), Text("words")]);
            vec![
                format!(
                    "INSERT INTO store ({own}, text_hash, text_changed) \
                     SELECT {own}, text_hash, 1 FROM {batch} WHERE true \
                     ON CONFLICT (id) DO UPDATE SET {update}, text_hash = excluded.text_hash, \
                     text_changed = store.text_hash <> excluded.text_hash"
                ),
                // Replacing takes out every token of the older text. CROSS JOIN: never all of `store`
                // with the batch searched for each of its rows.
                format!(
                    "INSERT OR REPLACE INTO store_words (rowid, words) \
                     SELECT store.row, r.words FROM {texts} CROSS JOIN store \
                     WHERE store.id = r.id AND store.text_changed = 1"
                ),
            ]
        }
        Kind::Postgres => vec![format!(
            "INSERT INTO store ({own}, words) \
             SELECT {own}, words::tsvector FROM {batch} WHERE true \
             ON CONFLICT (id) DO UPDATE SET {update}, words = excluded.words"
        )],
    }
}
