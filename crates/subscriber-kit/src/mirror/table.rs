//! The table of a mirror: created, or extended by columns, when the service starts.

use std::collections::HashMap;

use nudge_runtime::{
    Database, Tx,
    database::{Kind, WorkError},
    set_sql::{Set, columns_as_text, quoted},
};
use serde_json::{Map, Value as Json};
use sqlx::AssertSqlSafe;

use crate::apply::{MAX_READ_ROWS, shape::Value};

/// Advisory lock that makes replicas prepare the table one at a time. An arbitrary number that nothing else uses.
const LOCK: i64 = 0x6e75_6467_6501;

/// Why the table of a mirror cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A column of that name exists, with another type.
    #[error(
        "{table}.{column} is {found}, and the state needs {wanted}: rename the field, or alter the column and refill the table"
    )]
    Type {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The type that it has.
        found: String,
        /// The type that it needs.
        wanted: &'static str,
    },
    /// The database failed.
    #[error("cannot create or alter the table {table}")]
    Database {
        /// The table.
        table: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
}

impl WorkError for TableError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database { source, .. } => Some(source),
            Self::Type { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    name: &'static str,
    value: Value,
    optional: bool,
}

impl Column {
    pub(super) fn new(name: &'static str, value: Value, optional: bool) -> Self {
        Self { name, value, optional }
    }

    /// The same on both databases.
    fn sql_type(&self) -> &'static str {
        match self.value {
            Value::Text | Value::Json => "text",
            // 1 or 0, which sqlx can read from both databases.
            Value::Int | Value::Flag => "bigint",
            Value::Float => "double precision",
        }
    }

    /// The value in a row that has none yet.
    fn empty(&self) -> Json {
        match self.value {
            _ if self.optional => Json::Null,
            Value::Text => "".into(),
            Value::Int | Value::Float => 0.into(),
            Value::Flag => false.into(),
            Value::Json => Json::Null,
        }
    }

    fn definition(&self, kind: Kind) -> String {
        // Bytewise, so that both databases sort the same way.
        let collation = match (kind, self.sql_type()) {
            (Kind::Postgres, "text") => " COLLATE \"C\"",
            _ => "",
        };
        let (name, sql_type) = (quoted(self.name), self.sql_type());
        let default = match self.value {
            _ if self.optional => "",
            Value::Text => " NOT NULL DEFAULT ''",
            Value::Int | Value::Float | Value::Flag => " NOT NULL DEFAULT 0",
            Value::Json => " DEFAULT 'null'",
        };
        format!("{name} {sql_type}{collation}{default}")
    }

    /// An SQL expression for the column as JSON.
    fn json(&self, kind: Kind) -> String {
        let name = quoted(self.name);
        match (kind, self.value) {
            (Kind::Sqlite, Value::Flag) => {
                format!("json(CASE {name} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END)")
            }
            (Kind::Sqlite, Value::Json) => format!("json({name})"),
            // A real number as JSON is rounded, except by `quote`.
            (Kind::Sqlite, Value::Float) => format!(
                "json(CASE typeof({name}) WHEN 'real' THEN quote({name}) ELSE json_quote({name}) END)"
            ),
            (Kind::Postgres, Value::Flag) => format!("{name} = 1"),
            (Kind::Postgres, Value::Json) => format!("{name}::json"),
            _ => name,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) indexes: Vec<&'static [&'static str]>,
}

impl Table {
    pub(super) fn new(name: &'static str, columns: Vec<Column>) -> Self {
        Self { name, columns, indexes: Vec::new() }
    }

    /// A row in which every column has its empty value.
    pub(super) fn empty_row(&self) -> Map<String, Json> {
        self.columns.iter().map(|column| (column.name.to_owned(), column.empty())).collect()
    }

    /// A number that identifies this set of columns, in any order. A FNV-1a hash, which is the same in every release.
    pub(super) fn fingerprint(&self) -> i64 {
        let mut columns: Vec<_> = self
            .columns
            .iter()
            .map(|c| format!("{} {:?} {}", c.name, c.value, c.optional))
            .collect();
        columns.sort_unstable();
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = columns.join(",").bytes().fold(0xcbf2_9ce4_8422_2325, hash);
        // Never 0, which means no revision; not negative, for readability.
        (hash >> 1).max(1) as i64
    }

    /// Creates the table, or adds the columns that it lacks.
    pub(super) async fn prepare(&self, db: &Database) -> Result<(), TableError> {
        let failed = |source| TableError::Database { table: self.name, source };
        let mut tx = db.begin().await.map_err(failed)?;
        let kind = db.kind();
        if kind == Kind::Postgres {
            let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
            lock.execute(&mut *tx).await.map_err(failed)?;
        }
        let found = self.found(&mut tx).await.map_err(failed)?;
        for column in &self.columns {
            match found.get(column.name) {
                Some(found) if found != column.sql_type() => {
                    let (column, wanted) = (column.name, column.sql_type());
                    let (table, found) = (self.name, found.clone());
                    return Err(TableError::Type { table, column, found, wanted });
                }
                _ => {}
            }
        }
        for sql in self.changes(kind, &found) {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// The existing columns with their types. Empty if there is no such table.
    async fn found(&self, tx: &mut Tx) -> Result<HashMap<String, String>, sqlx::Error> {
        let sql = match Kind::of(tx) {
            Kind::Sqlite => "SELECT name, lower(type) FROM pragma_table_info($1)",
            Kind::Postgres => {
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
                 WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 AND NOT attisdropped"
            }
        };
        let rows: Vec<(String, String)> =
            sqlx::query_as(sql).bind(self.name).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().collect())
    }

    fn changes(&self, kind: Kind, found: &HashMap<String, String>) -> Vec<String> {
        let table = quoted(self.name);
        let definitions = |column: &Column| column.definition(kind);
        let mut changes = Vec::new();
        if found.is_empty() {
            let collation = if kind == Kind::Postgres { " COLLATE \"C\"" } else { "" };
            let key = format!("{} text{collation} PRIMARY KEY NOT NULL", quoted(Set::KEY));
            let columns: Vec<_> =
                [key].into_iter().chain(self.columns.iter().map(definitions)).collect();
            changes.push(format!("CREATE TABLE {table} ({})", columns.join(", ")));
        } else {
            let missing = self.columns.iter().filter(|column| !found.contains_key(column.name));
            changes.extend(
                missing.map(|c| format!("ALTER TABLE {table} ADD COLUMN {}", definitions(c))),
            );
        }
        changes.extend(self.indexes.iter().map(|columns| {
            let name = quoted(&format!("{}_by_{}", self.name, columns.join("_")));
            let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
            format!("CREATE INDEX IF NOT EXISTS {name} ON {table} ({})", columns.join(", "))
        }));
        changes
    }

    /// A query that reads each row that is not marked as deleted, as an ID and a JSON object.
    pub(super) fn read(
        &self,
        kind: Kind,
        deleted: Option<&'static str>,
        version: Option<&'static str>,
    ) -> String {
        let shown = |column: &&Column| ![deleted, version].contains(&Some(column.name));
        let object: Vec<_> = self
            .columns
            .iter()
            .filter(shown)
            .map(|column| format!("'{}', {}", column.name.replace('\'', "''"), column.json(kind)))
            .collect();
        let function = match kind {
            Kind::Sqlite => "json_object",
            Kind::Postgres => "json_build_object",
        };
        let there = deleted.map_or(String::new(), |d| format!(" WHERE {} = 0", quoted(d)));
        let (key, table) = (quoted(Set::KEY), quoted(self.name));
        format!("SELECT {key}, CAST({function}({}) AS text) FROM {table}{there}", object.join(", "))
    }

    /// A query that reads every column of the rows from one ID to another, whatever somebody has written there: as an ID
    /// and a text. At most [`MAX_READ_ROWS`] of them.
    pub(super) fn whole(&self, kind: Kind) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        let (key, table, row) =
            (quoted(Set::KEY), quoted(self.name), columns_as_text(kind, &columns));
        // A table that was there before may have another order.
        let bytewise = match kind {
            Kind::Sqlite => "",
            Kind::Postgres => " COLLATE \"C\"",
        };
        format!(
            "SELECT {key}, {row} FROM {table} WHERE {key}{bytewise} BETWEEN $1 AND $2 \
             ORDER BY {key}{bytewise} LIMIT {MAX_READ_ROWS}"
        )
    }
}
