//! Writes the owner's states to the tables: a whole batch in a few statements.

use std::{collections::BTreeMap, ops::RangeInclusive};

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    BoxError, Database, Tx,
    database::Kind,
    set_sql::{Set, columns_as_text},
};
use nudge_subscriber_kit::{Apply, EntityState, MAX_READ_ROWS, serde_json::Value};
use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::{bigram, read_model::migrate, store::StoreState};

const TABLE: &str = "store";
const INDEX: &str = "store_words";
/// The columns that both databases have.
const READ: &[&str] = &[
    "version",
    "name",
    "category",
    "category_written",
    "region",
    "region_written",
    "open",
    "name_key",
];

/// SQLite: the existing row shows whether the store's text has changed.
const UPSERT: &str = "INSERT INTO store ({columns}, text_changed) SELECT {columns}, 1 FROM {rows} \
    ON CONFLICT (id) DO UPDATE SET {updates}, text_changed = store.text_hash <> excluded.text_hash";
/// Replacing a row removes every token of the older text. CROSS JOIN fixes the join order, so that SQLite never
/// scans all of `store` and searches the batch for each row.
const INDEX_WORDS: &str = "INSERT OR REPLACE INTO store_words (rowid, words) \
    SELECT store.row, r.words FROM {rows} CROSS JOIN store \
    WHERE store.id = r.id AND store.text_changed = 1";
const DELETE_WORDS: &str = "DELETE FROM store_words WHERE rowid IN \
    (SELECT store.row FROM {rows} CROSS JOIN store WHERE store.id = r.id)";

/// Keeps the read model of stores.
#[derive(Clone, Copy, Debug)]
pub struct Stores;

impl Apply for Stores {
    type State = StoreState;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        Ok(migrate(db).await?)
    }

    async fn apply(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<StoreState>],
    ) -> Result<(), BoxError> {
        let kind = Kind::of(tx);
        let gone: Vec<_> =
            entities.iter().filter(|e| e.state.is_none()).map(|e| Gone { id: &e.id }).collect();
        let gone = Set::new(tx, TABLE, &gone)?;
        let (stores, words): (Vec<_>, Vec<_>) =
            entities.iter().filter_map(|entity| rows(kind, entity)).unzip();
        match kind {
            Kind::Sqlite => {
                gone.execute(tx, DELETE_WORDS).await?;
                gone.delete(tx).await?;
                Set::new(tx, TABLE, &stores)?.execute(tx, UPSERT).await?;
                Set::new(tx, INDEX, &words)?.execute(tx, INDEX_WORDS).await?;
            }
            Kind::Postgres => {
                gone.delete(tx).await?;
                Set::new(tx, TABLE, &stores)?.upsert(tx).await?;
            }
        }
        Ok(())
    }

    /// Every column but those that only serve the next write. `text_hash` stands for the words in SQLite's index.
    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        let kind = Kind::of(tx);
        let words: &[_] = match kind {
            Kind::Sqlite => &["text_hash"],
            Kind::Postgres => &["words", "lines", "lines_version"],
        };
        let row = columns_as_text(kind, &[READ, words].concat());
        let sql = format!(
            "SELECT id, {row} FROM store WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT {MAX_READ_ROWS}"
        );
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let query = query.bind(ids.start().to_string()).bind(ids.end().to_string());
        let rows: Vec<(String, String)> = query.fetch_all(&mut **tx).await?;
        Ok(Some(rows.into_iter().map(|(id, row)| (id, row.into())).collect()))
    }
}

/// A store that no longer exists.
#[derive(Serialize)]
struct Gone<'a> {
    id: &'a EntityId,
}

/// The row of an existing store, on either database.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a EntityId,
    version: Version,
    name: &'a str,
    category: String,
    category_written: Option<&'a str>,
    region: String,
    region_written: Option<&'a str>,
    open: u8,
    name_key: String,
    /// SQLite: a hash of its words, which shows whether they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    text_hash: Option<i64>,
    /// PostgreSQL: its words as a `tsvector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<String>,
    /// PostgreSQL: the text behind the words, and the version that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines_version: Option<Version>,
}

/// The row of an existing store in SQLite's text index.
#[derive(Serialize)]
struct Words<'a> {
    id: &'a EntityId,
    words: String,
}

fn rows(kind: Kind, entity: &EntityState<StoreState>) -> Option<(Row<'_>, Words<'_>)> {
    let (id, state) = (&entity.id, entity.state.as_ref()?);
    let segments = state.segments();
    let segments = || segments.iter().map(String::as_str);
    let tokens = bigram::document(segments());
    let (category, region) = (bigram::composed(&state.category), bigram::composed(&state.region));
    let lines = (kind == Kind::Postgres).then(|| bigram::lines(segments()));
    let (words, vector) = match kind {
        Kind::Sqlite => (tokens.join(" "), None),
        Kind::Postgres => {
            let placed = tokens.iter().zip(1..).map(|(token, place)| format!("'{token}':{place}"));
            (String::new(), Some(placed.collect::<Vec<_>>().join(" ")))
        }
    };
    let row = Row {
        id,
        version: entity.version,
        name: &state.name,
        category_written: Some(&*state.category).filter(|written| *written != category),
        category,
        region_written: Some(&*state.region).filter(|written| *written != region),
        region,
        open: state.open.into(),
        name_key: state.name_key(),
        text_hash: (kind == Kind::Sqlite).then(|| hash(&words)),
        words: vector,
        lines_version: lines.as_ref().map(|_| entity.version),
        lines,
    };
    Some((row, Words { id, words }))
}

/// Tells one document from another. If a later standard library hashes differently, each store is indexed
/// once more than necessary.
fn hash(words: &str) -> i64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(words, &mut hasher);
    std::hash::Hasher::finish(&hasher).cast_signed()
}
