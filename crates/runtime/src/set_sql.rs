//! Sets of rows as one parameter.
//!
//! Hand-written consumers are slow because they run a statement per row. Here a whole batch travels as one
//! JSON array, and one statement unpacks it: `json_each` on SQLite, `json_populate_recordset` on
//! PostgreSQL. [`Set`] does that for a table; [`rows`] writes the part of the statement that differs, for
//! rows that belong to no table.
//!
//! When joining rows with a table, write `FROM <rows> CROSS JOIN table WHERE …`: SQLite keeps the
//! order of a CROSS JOIN. Otherwise it may scan the table and parse the JSON for each row of
//! it, which turns milliseconds into minutes.

mod lines;
mod set;

use crate::database::Kind;

pub use lines::{Line, lines, read_lines};
pub use set::{Set, quoted};

/// A column of a JSON row: its name, which is also the object's field, and its type.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Text.
    Text(&'static str),
    /// A whole number.
    Int(&'static str),
    /// A JSON value, kept as text.
    Json(&'static str),
}

/// A table expression named `r` over the JSON array of objects in parameter `parameter`.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::{Column, rows}};
/// let columns = [Column::Text("id"), Column::Int("n")];
/// assert_eq!(
///     rows(Kind::Postgres, "$1", &columns),
///     "json_to_recordset($1::json) AS r(id text COLLATE \"C\", n bigint)",
/// );
/// assert_eq!(
///     rows(Kind::Sqlite, "$1", &columns),
///     "(SELECT value ->> 'id' AS id, value ->> 'n' AS n FROM json_each($1)) AS r",
/// );
/// ```
pub fn rows(kind: Kind, parameter: &str, columns: &[Column]) -> String {
    let column = |column: &Column| match (kind, *column) {
        (Kind::Sqlite, Column::Text(n) | Column::Int(n)) => format!("value ->> '{n}' AS {n}"),
        (Kind::Sqlite, Column::Json(n)) => format!("value -> '{n}' AS {n}"),
        // Bytewise, like id columns: everyone then locks rows in the same order.
        (Kind::Postgres, Column::Text(n)) => format!("{n} text COLLATE \"C\""),
        (Kind::Postgres, Column::Int(n)) => format!("{n} bigint"),
        (Kind::Postgres, Column::Json(n)) => format!("{n} json"),
    };
    let columns: Vec<_> = columns.iter().map(column).collect();
    let columns = columns.join(", ");
    match kind {
        Kind::Sqlite => format!("(SELECT {columns} FROM json_each({parameter})) AS r"),
        Kind::Postgres => format!("json_to_recordset({parameter}::json) AS r({columns})"),
    }
}

/// A column expression that lets each row be read separately, whatever it contains. SQLite stores
/// values of any type in any column. There, values of another type are selected as null, and text as bytes,
/// to be read as [`Text`](crate::database::Text): text that is not UTF-8 would otherwise fail the whole statement.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::{Column, typed}};
/// let fee = Column::Int("fee");
/// assert_eq!(typed(Kind::Postgres, "it", &fee), "it.fee");
/// assert_eq!(
///     typed(Kind::Sqlite, "it", &fee),
///     "CASE typeof(it.fee) WHEN 'integer' THEN it.fee END",
/// );
/// assert_eq!(
///     typed(Kind::Sqlite, "it", &Column::Text("name")),
///     "CASE typeof(it.name) WHEN 'text' THEN CAST(it.name AS BLOB) END",
/// );
/// ```
pub fn typed(kind: Kind, table: &str, column: &Column) -> String {
    match (kind, *column) {
        (Kind::Sqlite, Column::Int(n)) => {
            format!("CASE typeof({table}.{n}) WHEN 'integer' THEN {table}.{n} END")
        }
        (Kind::Sqlite, Column::Text(n) | Column::Json(n)) => {
            format!("CASE typeof({table}.{n}) WHEN 'text' THEN CAST({table}.{n} AS BLOB) END")
        }
        (Kind::Postgres, Column::Text(n) | Column::Int(n) | Column::Json(n)) => {
            format!("{table}.{n}")
        }
    }
}

/// An expression for all of these columns as one text, whatever they hold. Rows that differ in any of them have
/// different texts.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::columns_as_text};
/// assert_eq!(columns_as_text(Kind::Postgres, &["name", "open"]), "CAST(ROW(\"name\", \"open\") AS text)");
/// let text = columns_as_text(Kind::Sqlite, &["name"]);
/// assert_eq!(text, r#"CASE typeof("name") WHEN 'real' THEN quote("name") ELSE typeof("name") || ' ' || hex("name") END"#);
/// ```
pub fn columns_as_text(kind: Kind, columns: &[&str]) -> String {
    let column = |column: &&str| match (kind, quoted(column)) {
        // Values of any type fit into any column, and text need not be UTF-8. A real number as text is rounded, except
        // by `quote`.
        (Kind::Sqlite, name) => format!(
            "CASE typeof({name}) WHEN 'real' THEN quote({name}) \
             ELSE typeof({name}) || ' ' || hex({name}) END"
        ),
        (Kind::Postgres, name) => name,
    };
    let columns: Vec<_> = columns.iter().map(column).collect();
    match kind {
        Kind::Sqlite if columns.is_empty() => "''".to_owned(),
        Kind::Sqlite => columns.join(" || ' ' || "),
        Kind::Postgres => format!("CAST(ROW({}) AS text)", columns.join(", ")),
    }
}

/// A subquery over the JSON array of strings in parameter `parameter`, for `id IN …`.
///
/// PostgreSQL expects few rows of it, so it looks each up by its key, even in a table of which it knows nothing yet.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::strings};
/// assert_eq!(strings(Kind::Sqlite, "$1"), "(SELECT value FROM json_each($1))");
/// ```
pub fn strings(kind: Kind, parameter: &str) -> String {
    match kind {
        Kind::Sqlite => format!("(SELECT value FROM json_each({parameter}))"),
        // It expects ten elements of an array that it does not know, and a hundred of the function. For a hundred it would
        // rather read the whole table, until statistics say how many rows that has.
        Kind::Postgres => {
            format!("(SELECT unnest(ARRAY(SELECT json_array_elements_text({parameter}::json))))")
        }
    }
}

/// A condition, beginning with `AND`, that lets PostgreSQL look up the rows of a set of [`rows`] by their `id`, which is `column`
/// of a table, before it knows how many rows that table has. Empty on SQLite, which keeps the order of a `CROSS JOIN`.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::by_key};
/// assert_eq!(by_key(Kind::Sqlite, "$1", "log.id"), "");
/// assert_eq!(
///     by_key(Kind::Postgres, "$1", "log.id"),
///     "AND log.id = ANY (ARRAY(SELECT it ->> 'id' FROM json_array_elements($1::json) AS it))",
/// );
/// ```
pub fn by_key(kind: Kind, parameter: &str, column: &str) -> String {
    match kind {
        Kind::Sqlite => String::new(),
        Kind::Postgres => format!(
            "AND {column} = ANY (ARRAY(SELECT it ->> 'id' FROM json_array_elements({parameter}::json) AS it))"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::database::{Database, Durability};

    #[tokio::test]
    async fn what_differs_in_the_last_bit_or_the_type_has_another_text() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        let values =
            ["0.3", "0.1 + 0.2", "3", "3.0", "'3'", "x'33'", "NULL", "''", "'real'", "x'ff'"];
        let mut texts = HashSet::new();
        for value in values {
            let of = columns_as_text(Kind::Sqlite, &["a", "b"]);
            let sql = format!("SELECT {of} FROM (SELECT {value} AS a, 1 AS b)");
            let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
            let (text,): (String,) = query.fetch_one(db.reader()).await.unwrap();
            assert!(texts.insert(text), "{value}");
        }
    }
}
