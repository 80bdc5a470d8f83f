//! A batch of rows to write to a table.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::AssertSqlSafe;

use crate::database::{Kind, Tx};

/// Rows that one statement writes to a table, however many there are.
///
/// A row is anything that serializes to an object whose fields are columns of the table. All rows must have
/// the same fields: those of the first one count. A flag is written as 1 or 0, which a `BIGINT` accepts and
/// PostgreSQL's `BOOLEAN` too; a list or an object is written as JSON.
///
/// ```
/// use nudge_runtime::{database::{Database, Durability}, set_sql::Set};
///
/// #[derive(serde::Serialize)]
/// struct Shop<'a> { id: &'a str, name: &'a str, open: bool }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// # let db = Database::open("sqlite::memory:", Durability::Refillable).await?;
/// # db.write(sqlx::query("CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT, open BIGINT)")).await?;
/// let mut tx = db.begin().await?;
/// let shops = [
///     Shop { id: "1", name: "Moon", open: true },
///     Shop { id: "2", name: "Star", open: false },
/// ];
/// let shops = Set::new(&tx, "shop", &shops)?;
/// assert_eq!(shops.upsert(&mut tx).await?, 2);
///
/// // Your own statement: `{rows}` stands for the set, `{columns}` and `{updates}` for its columns.
/// let sql = "INSERT INTO shop ({columns}) SELECT {columns} FROM {rows} WHERE r.open = 1
///            ON CONFLICT (id) DO UPDATE SET {updates}";
/// assert_eq!(shops.execute(&mut tx, sql).await?, 1);
/// tx.commit().await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Set {
    kind: Kind,
    table: &'static str,
    columns: Vec<String>,
    json: String,
}

impl Set {
    /// The column that identifies rows, in [`upsert`](Self::upsert), [`delete`](Self::delete) and `{updates}`.
    pub const KEY: &'static str = "id";

    /// A set of rows for `table`, in the SQL of the database that `tx` runs on.
    ///
    /// # Errors
    /// If a row cannot be serialized, or is not an object.
    pub fn new<R: Serialize>(
        tx: &Tx,
        table: &'static str,
        rows: &[R],
    ) -> Result<Self, serde_json::Error> {
        let rows = rows.iter().map(|row| match serde_json::to_value(row)? {
            Value::Object(fields) => Ok(fields.into_iter().map(flags_as_numbers).collect()),
            _ => Err(serde::ser::Error::custom(format!("a row of {table} is not an object"))),
        });
        let rows: Vec<Map<String, Value>> = rows.collect::<Result<_, _>>()?;
        let columns = rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default();
        Ok(Self { kind: Kind::of(tx), table, columns, json: serde_json::to_string(&rows)? })
    }

    /// Inserts the rows, or updates these columns in rows with the same `id`.
    /// Returns how many rows were written.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn upsert(&self, tx: &mut Tx) -> Result<u64, sqlx::Error> {
        let change = match self.columns.iter().any(|column| column != Self::KEY) {
            true => "DO UPDATE SET {updates}",
            false => "DO NOTHING",
        };
        let sql = format!(
            "INSERT INTO {} ({{columns}}) SELECT {{columns}} FROM {{rows}} ON CONFLICT ({}) {change}",
            quoted(self.table),
            Self::KEY
        );
        self.execute(tx, &sql).await
    }

    /// Deletes the table's rows whose `id` is in the set. Returns how many were deleted.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete(&self, tx: &mut Tx) -> Result<u64, sqlx::Error> {
        let (table, key) = (quoted(self.table), Self::KEY);
        let sql = format!("DELETE FROM {table} WHERE {key} IN (SELECT r.{key} FROM {{rows}})");
        self.execute(tx, &sql).await
    }

    /// Runs your own statement, in which
    ///
    /// | | stands for |
    /// |---|---|
    /// | `{rows}` | the set, as a table named `r`, to be used after `FROM` |
    /// | `{columns}` | the names of its columns, separated by commas |
    /// | `{updates}` | `name = excluded.name` for each of them except `id`, for `DO UPDATE SET` |
    ///
    /// The set is the statement's only parameter. When joining it with a table, write
    /// `FROM {rows} CROSS JOIN table WHERE …`: SQLite keeps the order of a CROSS JOIN. Otherwise it may
    /// scan the table and parse the set for each row of it.
    ///
    /// Returns the number of affected rows. An empty set runs nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn execute(&self, tx: &mut Tx, sql: &str) -> Result<u64, sqlx::Error> {
        if self.columns.is_empty() {
            return Ok(0);
        }
        // Names come from the program's own types and text, never from data, and are quoted.
        let query = sqlx::query(AssertSqlSafe(self.expand(sql))).bind(&*self.json);
        Ok(query.execute(&mut **tx).await?.rows_affected())
    }

    fn expand(&self, sql: &str) -> String {
        let listed = |form: fn(&String) -> String, but: &str| {
            let names = self.columns.iter().filter(|name| *name != but);
            names.map(form).collect::<Vec<_>>().join(", ")
        };
        let columns = listed(|name| quoted(name), "");
        let updates = listed(|name| format!("{0} = excluded.{0}", quoted(name)), Self::KEY);
        let rows = match self.kind {
            Kind::Sqlite => {
                let field = |name: &String| name.replace('\'', "''");
                let value = |name| format!("value ->> '{}' AS {}", field(name), quoted(name));
                let values: Vec<_> = self.columns.iter().map(value).collect();
                format!("(SELECT {} FROM json_each($1)) AS r", values.join(", "))
            }
            // As wide as the table: its columns determine the values' types and collations.
            Kind::Postgres => {
                format!("json_populate_recordset(NULL::{}, $1::json) AS r", quoted(self.table))
            }
        };
        let sql = sql.replace("{columns}", &columns).replace("{updates}", &updates);
        let mut parts = sql.split("{rows}");
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for after in parts {
            expanded.push_str(&rows);
            // Otherwise SQLite reads ON CONFLICT as the ON of a join.
            if after.trim_start().starts_with("ON CONFLICT") {
                expanded.push_str(" WHERE true");
            }
            expanded.push_str(after);
        }
        expanded
    }
}

/// SQLite has no booleans, and a `BIGINT` of PostgreSQL does not accept `true`.
fn flags_as_numbers((name, value): (String, Value)) -> (String, Value) {
    let value = value.as_bool().map_or(value, |flag| u8::from(flag).into());
    (name, value)
}

/// A quoted name, so that any is possible: `order`, `openedAt`.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
