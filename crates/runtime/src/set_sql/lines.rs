//! Many rows as one text.
//!
//! A row of SQLite's crosses from the driver's thread to the one that asked, which takes two context switches, and each of
//! its columns is copied three times: on an idle virtual machine 100 µs, so that 32,768 rows take three seconds. As one text
//! they take a twentieth of that.

use std::str::Split;

use super::Column;
use crate::database::Kind;

/// A row as [`lines`] writes it. Its columns are read one after the other, in their order.
#[derive(Clone, Debug)]
pub struct Line<'a>(Split<'a, char>);

/// A query whose one value is the text of all rows of `rows`, a query for these columns, at least two. To be read by
/// [`read_lines`]. On SQLite, a column that `rows` computes may be computed twice, unless `rows` ends with a `LIMIT`.
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::{Column, lines}};
/// assert_eq!(
///     lines(Kind::Postgres, &[Column::Text("id"), Column::Int("n")], "SELECT id, n FROM log ORDER BY id"),
///     "SELECT COALESCE(string_agg(COALESCE(encode(convert_to(id, 'UTF8'), 'hex'), '-') || ' ' || \
///      COALESCE(n::text, '-'), ';'), '') FROM (SELECT id, n FROM log ORDER BY id) AS rows_of",
/// );
/// ```
pub fn lines(kind: Kind, columns: &[Column], rows: &str) -> String {
    debug_assert!(columns.len() > 1, "a single empty text would be no line");
    // SQLite stores whatever it is given. What is not of its column's type becomes a hyphen.
    let column = |column: &Column| match (kind, *column) {
        (Kind::Sqlite, Column::Text(n) | Column::Json(n)) => {
            format!("CASE typeof({n}) WHEN 'text' THEN hex({n}) ELSE '-' END")
        }
        (Kind::Sqlite, Column::Int(n)) => {
            format!("CASE typeof({n}) WHEN 'integer' THEN {n} ELSE '-' END")
        }
        (Kind::Postgres, Column::Text(n) | Column::Json(n)) => {
            format!("COALESCE(encode(convert_to({n}, 'UTF8'), 'hex'), '-')")
        }
        (Kind::Postgres, Column::Int(n)) => format!("COALESCE({n}::text, '-')"),
    };
    let columns: Vec<_> = columns.iter().map(column).collect();
    let aggregate = match kind {
        Kind::Sqlite => "group_concat",
        Kind::Postgres => "string_agg",
    };
    let columns = columns.join(" || ' ' || ");
    format!("SELECT COALESCE({aggregate}({columns}, ';'), '') FROM ({rows}) AS rows_of")
}

/// Reads the value of a query made by [`lines`], in its order.
///
/// ```
/// use nudge_runtime::set_sql::read_lines;
/// let mut lines = read_lines("3432 7;FF -");
/// let mut line = lines.next().unwrap();
/// assert_eq!((line.text(), line.int()), (Some("42".to_owned()), Some(7)));
/// let mut line = lines.next().unwrap();
/// assert_eq!((line.clone().text(), line.bytes(), line.int()), (None, Some(vec![0xff]), None));
/// assert!(lines.next().is_none());
/// ```
pub fn read_lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.split(';').filter(|line| !line.is_empty()).map(|line| Line(line.split(' ')))
}

impl Line<'_> {
    /// The next column, a text; `None` if it holds something else, or is not UTF-8, which SQLite may have.
    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    /// The bytes of the next column, a text; `None` if it holds something else.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
        self.0.next()?.as_bytes().chunks(2).map(byte).collect()
    }

    /// The next column, a whole number; `None` if it holds something else.
    pub fn int(&mut self) -> Option<i64> {
        self.0.next()?.parse().ok()
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, Durability};

    #[tokio::test]
    async fn rows_come_in_their_order_whatever_is_stored() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        let columns = [Column::Text("id"), Column::Int("n"), Column::Text("name")];
        let of = |rows: &str| sqlx::AssertSqlSafe(lines(Kind::Sqlite, &columns, rows));
        let rows = "SELECT * FROM (SELECT 'b; 1 0' AS id, 7 AS n, '' AS name UNION ALL SELECT x'41', 8, 'x' \
                    UNION ALL SELECT '가', 9, 'y' UNION ALL SELECT CAST(x'ff' AS TEXT), 10, 'z' \
                    UNION ALL SELECT 'x', NULL, 5 UNION ALL SELECT 'x', CAST(x'ff' AS TEXT), 'x') ORDER BY typeof(n), n";
        let (text,): (String,) = sqlx::query_as(of(rows)).fetch_one(db.reader()).await.unwrap();
        let read = |mut line: Line<'_>| (line.text(), line.int(), line.text());
        let text_of = |text: &str| Some(text.to_owned());
        let expected = [
            (text_of("b; 1 0"), Some(7), text_of("")),
            (None, Some(8), text_of("x")),
            (text_of("가"), Some(9), text_of("y")),
            (None, Some(10), text_of("z")),
            (text_of("x"), None, None),
            (text_of("x"), None, text_of("x")),
        ];
        assert_eq!(read_lines(&text).map(read).collect::<Vec<_>>(), expected, "{text}");
        let none = of("SELECT 1 AS id, 2 AS n, 3 AS name WHERE false");
        let (text,): (String,) = sqlx::query_as(none).fetch_one(db.reader()).await.unwrap();
        assert_eq!(read_lines(&text).count(), 0);
    }
}
