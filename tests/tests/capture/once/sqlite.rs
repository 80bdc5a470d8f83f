//! SQLite: `REPLACE`, conflict clauses, foreign keys that are not enforced, odd comparisons.

use nudge_protocol::entity::MAX_ENTITY_ID_BYTES;
use nudge_publisher::{Recording, capture::Tables};
use nudge_runtime::database::Kind;
use nudge_tests::TestDatabase;

use crate::capture::support::{INSERT_ABC, PUBLISHED, Shops, changes};

async fn abc() -> Shops {
    let shops = Shops::of(Kind::Sqlite).await;
    shops.run(INSERT_ABC).await;
    shops.run("INSERT INTO tag VALUES (1, 'a', 'x'), (2, 'b', 'y')").await;
    shops.run(PUBLISHED).await;
    shops
}

async fn of(tables: &str) -> Shops<Recording> {
    Shops::uncaptured(TestDatabase::of(Kind::Sqlite).await, tables).await
}

#[tokio::test]
async fn what_gives_way_to_a_replace_is_recorded_by_whatever_key_it_clashed() {
    for pragma in ["", "PRAGMA recursive_triggers = ON; ", "PRAGMA foreign_keys = OFF; "] {
        for (sql, expected) in [
            // The same key: `a` is replaced, which is an update.
            ("REPLACE INTO shop VALUES ('a', 'new', 'code-a')", &["a updated"][..]),
            // Another key with the code of `b`: `b` disappears without a delete trigger.
            ("REPLACE INTO shop VALUES ('d', 'new', 'code-b')", &["b deleted", "d created"]),
            // Both at once.
            ("REPLACE INTO shop VALUES ('a', 'new', 'code-b')", &["a updated", "b deleted"]),
            (
                "UPDATE OR REPLACE shop SET code = 'code-b' WHERE id = 'a'",
                &["a updated", "b deleted"],
            ),
            // With foreign keys, SQLite itself refuses this one.
            (
                "PRAGMA foreign_keys = OFF; UPDATE OR REPLACE shop SET id = 'b' WHERE id = 'a'",
                &["a deleted", "b updated"],
            ),
            // A row of a child moves to another shop.
            ("REPLACE INTO tag VALUES (1, 'c', 'x')", &["a updated", "c updated"]),
            ("UPDATE OR REPLACE tag SET number = 2 WHERE number = 1", &["a updated", "b updated"]),
            ("INSERT OR IGNORE INTO shop VALUES ('d', 'new', 'code-b')", &[]),
            ("INSERT OR IGNORE INTO shop VALUES ('d', 'new', 'code-d')", &["d created"]),
            (
                "INSERT OR IGNORE INTO shop VALUES ('d', 'new', 'code-b'); \
                 UPDATE shop SET name = 'later' WHERE id = 'c'",
                &["c updated"],
            ),
        ] {
            let shops = abc().await;
            let recorded = shops.recorded(&format!("{pragma}{sql}")).await;
            let recorded: Vec<_> =
                recorded.iter().map(|(id, change)| format!("{id} {change}")).collect();
            // With delete triggers, a replaced row is gone for a moment.
            let plain: Vec<_> = recorded.iter().map(|r| r.replace("created", "updated")).collect();
            let expected: Vec<_> =
                expected.iter().map(|r| r.replace("created", "updated")).collect();
            assert_eq!(plain, expected, "{pragma}{sql}");
        }
    }
}

#[tokio::test]
async fn nothing_that_was_published_is_forgotten_by_a_replace() {
    let shops = abc().await;
    shops.run("UPDATE nudge_change_log SET published_seq = 7").await;
    shops.run("REPLACE INTO shop SELECT id, 'new', code FROM shop").await;
    let sql = "SELECT count(*) FROM nudge_change_log WHERE published_seq = 7 AND version > published_version";
    let (kept,): (i64,) = sqlx::query_as(sql).fetch_one(shops.db.reader()).await.unwrap();
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn values_that_only_compare_equal_are_changes() {
    let shops = of(
        "CREATE TABLE shop (id TEXT PRIMARY KEY COLLATE NOCASE, name TEXT COLLATE NOCASE, any, code TEXT);
         INSERT INTO shop VALUES ('a', 'Name', 1, 'x')",
    )
    .await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    for sql in [
        "UPDATE shop SET name = 'name'",
        "UPDATE shop SET any = 1.0",
        "UPDATE shop SET any = '1'",
        "UPDATE shop SET any = x'31'",
    ] {
        assert_eq!(shops.recorded(sql).await.len(), 1, "{sql}");
        assert_eq!(shops.recorded(sql).await.len(), 0, "{sql}");
    }
    let expected = changes(&[("A", "created"), ("a", "deleted")]);
    assert_eq!(shops.recorded("UPDATE shop SET id = 'A'").await, expected);
    let expected = changes(&[("A", "deleted"), ("a", "created")]);
    assert_eq!(shops.recorded("REPLACE INTO shop VALUES ('a', '', 1, '')").await, expected);
}

#[tokio::test]
async fn children_left_behind_belong_to_nobody_until_their_shop_is_back() {
    let shops = abc().await;
    shops.run("INSERT INTO menu VALUES ('a', 1, 'x')").await;
    let sql = "PRAGMA foreign_keys = OFF; DELETE FROM shop WHERE id = 'a'";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "deleted")]));
    shops.run("INSERT INTO shop VALUES ('a', 'again', NULL)").await;
    assert_eq!(shops.states().await["a"], "again/null;1/x;1/x;");
}

#[tokio::test]
async fn whole_numbers_are_ids_too() {
    let shops = of("CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE menu (shop_id INTEGER, name TEXT);
         INSERT INTO shop VALUES (42, 'before')")
    .await;
    shops.capture(&Tables::root("shop", "id").child("menu", "shop_id")).await.unwrap();
    for (sql, expected) in [
        ("UPDATE shop SET name = 'x'", &[("42", "created")][..]),
        ("INSERT INTO shop (name) VALUES ('new')", &[("43", "created")]),
        ("INSERT INTO menu VALUES (43, 'x')", &[("43", "created")]),
        ("DELETE FROM shop WHERE id = 42", &[("42", "deleted")]),
        ("REPLACE INTO shop VALUES (43, 'y')", &[("43", "created")]),
        ("INSERT INTO menu VALUES (99, 'nobody')", &[]),
    ] {
        assert_eq!(shops.recorded(sql).await, changes(expected), "{sql}");
    }
}

#[tokio::test]
async fn what_replace_could_hide_is_refused() {
    for (schema, problem) in [
        (
            "CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT); \
             CREATE UNIQUE INDEX by_name ON shop (lower(name))",
            "by_name",
        ),
        ("CREATE TABLE shop (id PRIMARY KEY, name TEXT)", "of type \"\""),
        ("CREATE TABLE shop (id BLOB PRIMARY KEY, name TEXT)", "of type \"BLOB\""),
        ("CREATE TABLE shop (id UUID PRIMARY KEY, name TEXT)", "of type \"UUID\""),
        ("CREATE TABLE shop (id REAL PRIMARY KEY, name TEXT)", "of type \"REAL\""),
        ("CREATE TABLE shop (id DECIMAL(9) PRIMARY KEY, name TEXT)", "of type \"DECIMAL(9)\""),
    ] {
        let error = of(schema).await.capture(&Tables::root("shop", "id")).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_row_without_a_key_is_refused() {
    let shops = of("CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT)").await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    let said = shops.refused("INSERT INTO shop VALUES (NULL, 'x')").await;
    assert!(said.contains("the id of a shop"), "{said}");
    let said = shops.refused("INSERT OR REPLACE INTO shop VALUES (NULL, 'x')").await;
    assert!(said.contains("the id of a shop"), "{said}");
}

/// SQLite stores whatever bytes it is given.
#[tokio::test]
async fn an_id_that_is_not_utf8_is_refused_when_it_is_written() {
    let shops = of("CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT)").await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    // ASCII, two to four bytes per character, what SQLite itself writes for a bad one, and two characters that it
    // cannot read back; of one byte too many, the longest that fits.
    let longest = format!(
        "{}{}",
        "EAB080".repeat(MAX_ENTITY_ID_BYTES / 3),
        "61".repeat(MAX_ENTITY_ID_BYTES % 3)
    );
    let valid =
        ["61", "C3A9", "EAB080", "F09F8DB3", "61EFBFBD62", "61EFBFBE", "EFBFBF61", &longest];
    for id in valid {
        shops.run(&format!("INSERT INTO shop VALUES (CAST(X'{id}' AS TEXT), 'x')")).await;
    }
    let (recorded,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM nudge_change_log AS log JOIN shop ON shop.id = log.id WHERE deleted = 0")
            .fetch_one(shops.db.reader())
            .await
            .unwrap();
    assert_eq!(recorded, valid.len() as i64);
    // EUC-KR; a single byte; half a character, at the end and before another; an overlong form; half a UTF-16 pair;
    // beyond Unicode; a long text whose last character is cut off.
    let cut = format!("{}EAB0", "EAB080".repeat(MAX_ENTITY_ID_BYTES / 3 - 1));
    let bad = [
        "B0A1", "61A061", "61EAB0", "EAB061", "E08282", "C1A1", "EDA080", "F4908080", "F8888080",
        "FF", &cut,
    ];
    for id in bad {
        for sql in [
            format!("INSERT INTO shop VALUES (CAST(X'{id}' AS TEXT), 'x')"),
            format!("INSERT OR REPLACE INTO shop VALUES (CAST(X'{id}' AS TEXT), 'x')"),
            format!("UPDATE shop SET id = CAST(X'{id}' AS TEXT) WHERE id = 'a'"),
        ] {
            let said = shops.refused(&sql).await;
            assert!(said.contains("the id of a shop"), "{sql}: {said}");
        }
    }
    let said = shops.refused("INSERT INTO shop VALUES (X'61', 'bytes')").await;
    assert!(said.contains("the id of a shop"), "{said}");
}

/// A bad one that already exists does not prevent capturing the others.
#[tokio::test]
async fn an_id_that_is_not_utf8_and_is_there_already_keeps_no_other_from_being_captured() {
    let shops = of("CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT)").await;
    shops.run("INSERT INTO shop VALUES ('a', 'A'), (CAST(X'B0A1' AS TEXT), 'B'), (X'61', 'C'), ('d', 'D')").await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    shops.run("UPDATE shop SET name = 'other' WHERE id = 'd'").await;
    let recorded = async |ids: &'static str| {
        let sql = format!(
            "SELECT id FROM nudge_change_log WHERE deleted = 0 AND id IN ({ids}) ORDER BY id"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
        let rows: Vec<(String,)> = query.fetch_all(shops.db.reader()).await.unwrap();
        rows.into_iter().map(|(id,)| id).collect::<Vec<_>>()
    };
    assert_eq!(recorded("'a', 'd'").await, ["a", "d"]);
    // It can be repaired by hand.
    shops
        .run(
            "UPDATE shop SET id = 'b' WHERE id = CAST(X'B0A1' AS TEXT); \
             DELETE FROM shop WHERE name = 'C'",
        )
        .await;
    assert_eq!(recorded("'a', 'b', 'd'").await, ["a", "b", "d"]);
}

/// A statement may set a row's number, even if that is not a column.
#[tokio::test]
async fn a_row_that_gives_way_to_another_of_its_number_is_deleted() {
    for names in ["id TEXT PRIMARY KEY, name TEXT", "id TEXT PRIMARY KEY, rowid TEXT"] {
        let number = if names.contains("rowid") { "_rowid_" } else { "rowid" };
        let shops = of(&format!("CREATE TABLE shop ({names})")).await;
        shops.capture(&Tables::root("shop", "id")).await.unwrap();
        shops.run("INSERT INTO shop VALUES ('a', 'A'), ('b', 'B'), ('c', 'C')").await;
        shops.run(PUBLISHED).await;
        for (sql, expected) in [
            (
                format!("INSERT OR REPLACE INTO shop ({number}, id) VALUES (2, 'd')"),
                &[("b", "deleted"), ("d", "created")][..],
            ),
            (
                format!("UPDATE OR REPLACE shop SET {number} = 3, id = 'e' WHERE id = 'a'"),
                &[("a", "deleted"), ("c", "deleted"), ("e", "created")],
            ),
            (
                format!("UPDATE OR REPLACE shop SET {number} = 3 WHERE id = 'd'"),
                &[("d", "created"), ("e", "deleted")],
            ),
        ] {
            assert_eq!(shops.recorded(&sql).await, changes(expected), "{sql}");
        }
    }
    let shops = of("CREATE TABLE shop (id TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID").await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    let seen = shops.recorded("REPLACE INTO shop VALUES ('a', 'A')").await;
    assert_eq!(seen, changes(&[("a", "created")]));
}
