//! Many small rows as one text.
//!
//! A row of SQLite's crosses from the driver's thread to the one that asked, which takes two context switches: on an idle
//! virtual machine 100 µs, so that 32,768 rows take three seconds. As one text they take a twentieth of that.

use crate::database::Kind;

/// The ID, the version, and whether it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The ID.
    pub id: String,
    /// The version.
    pub version: i64,
    /// Whether the entity is deleted.
    pub deleted: bool,
}

/// A query whose one value is the text of all rows of `rows`, a query for the columns `id`, `version` and `deleted`. To be
/// read by [`read_lines`].
///
/// ```
/// use nudge_runtime::{database::Kind, set_sql::lines};
/// assert_eq!(
///     lines(Kind::Postgres, "SELECT id, version, deleted FROM log ORDER BY id"),
///     "SELECT COALESCE(string_agg(encode(convert_to(id, 'UTF8'), 'hex') || ' ' || version || ' ' || deleted, ';'), '') \
///      FROM (SELECT id, version, deleted FROM log ORDER BY id) AS rows_of",
/// );
/// ```
pub fn lines(kind: Kind, rows: &str) -> String {
    // SQLite stores whatever it is given: an ID that is no text has no digits.
    let (id, aggregate) = match kind {
        Kind::Sqlite => {
            ("COALESCE(CASE typeof(id) WHEN 'text' THEN hex(id) END, '')", "group_concat")
        }
        Kind::Postgres => ("encode(convert_to(id, 'UTF8'), 'hex')", "string_agg"),
    };
    format!(
        "SELECT COALESCE({aggregate}({id} || ' ' || version || ' ' || deleted, ';'), '') \
         FROM ({rows}) AS rows_of"
    )
}

/// Reads the value of a query made by [`lines`], in its order. `None` stands for a row that is not valid: its ID is not
/// UTF-8, for instance, which SQLite may have.
///
/// ```
/// use nudge_runtime::set_sql::read_lines;
/// let lines: Vec<_> = read_lines("3432 7 0;ff 8 1").collect();
/// assert_eq!(lines[0].as_ref().unwrap().id, "42");
/// assert_eq!(lines[1], None);
/// ```
pub fn read_lines(text: &str) -> impl Iterator<Item = Option<Line>> {
    text.split(';').filter(|line| !line.is_empty()).map(read)
}

fn read(line: &str) -> Option<Line> {
    let mut parts = line.split(' ');
    let (id, version, deleted) = (parts.next()?, parts.next()?, parts.next()?);
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    let id: Vec<u8> = id.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?;
    let id = String::from_utf8(id).ok().filter(|id| !id.is_empty())?;
    Some(Line { id, version: version.parse().ok()?, deleted: deleted != "0" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, Durability};

    #[tokio::test]
    async fn rows_come_in_their_order_whatever_is_stored() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        let rows = "SELECT 'b; 1 0' AS id, 7 AS version, 0 AS deleted UNION ALL SELECT x'41', 8, 0 \
                    UNION ALL SELECT '가', 9, 1 UNION ALL SELECT CAST(x'ff' AS TEXT), 9, 1 \
                    UNION ALL SELECT 'x', 'seven', 0 ORDER BY version, id";
        let query = sqlx::query_as(sqlx::AssertSqlSafe(lines(Kind::Sqlite, rows)));
        let (text,): (String,) = query.fetch_one(db.reader()).await.unwrap();
        let line = |id: &str, version, deleted| Some(Line { id: id.to_owned(), version, deleted });
        let expected = [line("b; 1 0", 7, false), None, line("가", 9, true), None, None];
        assert_eq!(read_lines(&text).collect::<Vec<_>>(), expected, "{text}");
        let none = lines(Kind::Sqlite, "SELECT 1 AS id, 2 AS version, 3 AS deleted WHERE false");
        let query = sqlx::query_as(sqlx::AssertSqlSafe(none));
        let (text,): (String,) = query.fetch_one(db.reader()).await.unwrap();
        assert_eq!(read_lines(&text).count(), 0);
    }
}
