//! The read model: all of this service's SQL.
//!
//! | table | |
//! |---|---|
//! | `store` | one row per existing store: the columns to filter by, to sort by and to return |
//! | `store_words` (SQLite) | the text index, FTS5 over the tokens of [`crate::bigram`] |
//! | `store.words` (PostgreSQL) | the same as a `tsvector` column with a GIN index |
//!
//! `store_words` holds no text of its own, only the index. It is joined by `store.row`; FTS5 needs only
//! that number to delete or replace a row.

mod apply;
mod find;

use nudge_runtime::{
    Database,
    database::{Migration, OpenError},
};

pub use apply::Stores;
pub use find::{Item, Page, find};

const MIGRATIONS: &[Migration] = &[TABLES, OTHER_FORMS];

const TABLES: Migration = Migration {
    number: 1,
    title: "stores and their words",
    // The program produces the tokens; the `ascii` tokenizer keeps them as they are, since it never splits
    // at letters and digits. `text_hash` and `text_changed` avoid work on the text index when only other
    // fields changed: see `apply.rs`.
    sqlite: "
        CREATE TABLE store (
            row INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            version BIGINT NOT NULL,
            name TEXT NOT NULL,
            category TEXT NOT NULL,
            region TEXT NOT NULL,
            open BIGINT NOT NULL,
            name_key TEXT NOT NULL,
            text_hash BIGINT NOT NULL,
            text_changed BIGINT NOT NULL
        );
        CREATE INDEX store_by_name ON store (name_key, id);
        CREATE INDEX store_by_region ON store (region, name_key, id);
        CREATE INDEX store_by_category ON store (category, name_key, id);
        CREATE VIRTUAL TABLE store_words USING fts5 (
            words, content = '', contentless_delete = 1, tokenize = 'ascii'
        );",
    postgres: r#"
        CREATE TABLE store (
            id TEXT COLLATE "C" PRIMARY KEY,
            version BIGINT NOT NULL,
            name TEXT NOT NULL,
            category TEXT COLLATE "C" NOT NULL,
            region TEXT COLLATE "C" NOT NULL,
            open BIGINT NOT NULL,
            name_key TEXT COLLATE "C" NOT NULL,
            words TSVECTOR NOT NULL
        );
        CREATE INDEX store_by_name ON store (name_key, id);
        CREATE INDEX store_by_region ON store (region, name_key, id);
        CREATE INDEX store_by_category ON store (category, name_key, id);
        CREATE INDEX store_words ON store USING gin (words);"#,
};

/// From here on, region and category are stored in composed form, with the owner's spelling beside them where
/// it differs. Also, PostgreSQL records at most 256 positions of a token in a text and misses phrases beyond
/// them, so the text is stored too, with its version. An older release that runs beside this one does not
/// update these columns; [`find`] allows for that.
const OTHER_FORMS: Migration = Migration {
    number: 2,
    title: "region and category as they were written; the text of the words",
    sqlite: "
        ALTER TABLE store ADD COLUMN category_written TEXT;
        ALTER TABLE store ADD COLUMN region_written TEXT;",
    postgres: "
        ALTER TABLE store ADD COLUMN category_written TEXT;
        ALTER TABLE store ADD COLUMN region_written TEXT;
        ALTER TABLE store ADD COLUMN lines TEXT;
        ALTER TABLE store ADD COLUMN lines_version BIGINT;",
};

/// Creates the tables, or brings them up to date.
pub async fn migrate(db: &Database) -> Result<(), OpenError> {
    db.migrate("search", MIGRATIONS).await
}
