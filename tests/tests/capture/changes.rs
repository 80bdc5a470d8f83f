//! What each statement records.

use nudge_tests::id;

use crate::capture::support::{INSERT_ABC, PUBLISHED, Shops, changes};

/// Published, so that later changes are changes of something known.
async fn publish(shops: &Shops) {
    shops.run(PUBLISHED).await;
}

async fn abc() -> Shops {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    publish(&shops).await;
    shops
}

#[tokio::test]
async fn a_row_of_the_root_is_created_updated_deleted_and_created_again() {
    let shops = Shops::new().await;
    for (sql, change) in [
        ("INSERT INTO shop VALUES ('a', 'A', NULL)", "created"),
        ("UPDATE shop SET name = 'B' WHERE id = 'a'", "updated"),
        ("UPDATE shop SET name = NULL WHERE id = 'a'", "updated"),
        ("DELETE FROM shop WHERE id = 'a'", "deleted"),
        ("INSERT INTO shop VALUES ('a', 'A', NULL)", "created"),
    ] {
        assert_eq!(shops.recorded(sql).await, changes(&[("a", change)]), "{sql}");
        publish(&shops).await;
    }
}

#[tokio::test]
async fn a_shop_that_nobody_heard_of_yet_is_still_announced_as_created() {
    let shops = Shops::new().await;
    let sql = "INSERT INTO shop VALUES ('a', 'A', NULL); INSERT INTO menu VALUES ('a', 1, 'x')";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "created")]));
}

#[tokio::test]
async fn rows_of_children_are_changes_of_their_shop() {
    let shops = abc().await;
    for (sql, expected) in [
        ("INSERT INTO menu VALUES ('a', 1, 'x'), ('a', 2, 'y'), ('b', 1, 'z')", &["a", "b"][..]),
        ("UPDATE menu SET name = 'w' WHERE shop_id = 'a' AND position = 1", &["a"]),
        ("DELETE FROM menu WHERE position = 1", &["a", "b"]),
        ("INSERT INTO tag VALUES (1, 'c', 'new'), (2, NULL, 'free')", &["c"]),
        ("UPDATE tag SET word = 'old' WHERE number = 1", &["c"]),
        ("UPDATE tag SET word = 'old' WHERE number = 2", &[]),
        ("UPDATE tag SET shop_id = 'a' WHERE number = 1", &["a", "c"]),
        ("UPDATE tag SET shop_id = NULL WHERE number = 1", &["a"]),
        ("UPDATE tag SET shop_id = 'b' WHERE number = 2", &["b"]),
    ] {
        let expected: Vec<_> = expected.iter().map(|id| (*id, "updated")).collect();
        assert_eq!(shops.recorded(sql).await, changes(&expected), "{sql}");
        publish(&shops).await;
    }
}

#[tokio::test]
async fn a_cascade_leaves_a_tombstone_whatever_fires_first() {
    let shops = abc().await;
    shops.run("INSERT INTO menu VALUES ('a', 1, 'x'), ('a', 2, 'y'), ('b', 1, 'z')").await;
    shops.run("INSERT INTO tag VALUES (1, 'a', 'stays')").await;
    publish(&shops).await;
    let sql = "DELETE FROM shop WHERE id = 'a'";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "deleted")]));
    assert_eq!(shops.states().await.len(), 2);
    // Its remaining children do not make it a shop again.
    let sql = "UPDATE tag SET word = 'still there' WHERE number = 1";
    let again = shops.recorded(sql).await;
    assert!(again.is_empty() || again == changes(&[("a", "deleted")]), "{again:?}");
}

#[tokio::test]
async fn another_key_is_the_end_of_one_shop_and_the_beginning_of_another() {
    let shops = abc().await;
    shops.run("INSERT INTO menu VALUES ('a', 1, 'x')").await;
    publish(&shops).await;
    let moved = shops.recorded("UPDATE shop SET id = 'd' WHERE id = 'a'").await;
    assert_eq!(moved[0], ("a".to_owned(), "deleted".to_owned()));
    assert_eq!(moved[1].0, "d");
    assert_eq!(moved.len(), 2);
    assert_eq!(shops.states().await["d"], "A/code-a;1/x;");
}

#[tokio::test]
async fn an_update_that_changes_nothing_records_nothing() {
    let shops = abc().await;
    shops.run("INSERT INTO menu VALUES ('a', 1, NULL), ('b', 1, 'x')").await;
    publish(&shops).await;
    for sql in [
        "UPDATE shop SET name = name, code = code, id = id",
        "UPDATE shop SET name = 'A' WHERE id = 'a'",
        "UPDATE menu SET name = NULL WHERE shop_id = 'a'",
        "UPDATE menu SET name = name",
        "UPDATE shop SET name = 'nobody' WHERE id = 'z'",
        "DELETE FROM shop WHERE id = 'z'",
        "INSERT INTO shop SELECT * FROM shop WHERE id = 'z'",
    ] {
        assert_eq!(shops.recorded(sql).await, changes(&[]), "{sql}");
    }
    // Of many rows, only those that change.
    let sql = "UPDATE shop SET name = 'B'";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "updated"), ("c", "updated")]));
    // It looks the same as text, but is another value.
    let sql = "UPDATE menu SET name = '' WHERE shop_id = 'a'";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "updated")]));
    let sql = "UPDATE menu SET name = 'X' WHERE shop_id = 'b'";
    assert_eq!(shops.recorded(sql).await, changes(&[("b", "updated")]));
}

#[tokio::test]
async fn what_is_rolled_back_was_never_recorded() {
    let shops = abc().await;
    let before = shops.log().await;
    let sql = "UPDATE shop SET name = 'Z'; DELETE FROM shop WHERE id = 'a'; ROLLBACK";
    shops.run(&format!("BEGIN; {sql}")).await;
    assert_eq!(shops.log().await, before);
}

#[tokio::test]
async fn a_key_that_cannot_be_an_id_is_refused_and_nothing_is_written() {
    let shops = abc().await;
    let before = (shops.log().await, shops.states().await);
    let long = "x".repeat(201);
    for key in ["''", &format!("'{long}'"), "'a\nb'", "'\u{7f}'", "'\u{85}'"] {
        for sql in [
            format!("INSERT INTO shop VALUES ('fine', '', NULL), ({key}, '', NULL)"),
            format!("UPDATE shop SET id = {key} WHERE id = 'a'"),
        ] {
            let said = shops.refused(&sql).await;
            assert!(said.contains("the id of a shop must be 1 to 200 bytes"), "{sql}: {said}");
        }
    }
    assert_eq!((shops.log().await, shops.states().await), before);
    let longest = "가".repeat(66);
    shops.run(&format!("INSERT INTO shop VALUES ('{longest}', '', NULL)")).await;
    assert!(shops.log().await.contains_key(&longest));
    shops
        .run("INSERT INTO shop VALUES ('강남 1호점/별관 100%', '', NULL), ('it''s', '', NULL)")
        .await;
    assert!(shops.log().await.contains_key("it's"));
}

#[tokio::test]
async fn a_version_beyond_the_limit_is_refused_and_the_old_row_stays() {
    let shops = abc().await;
    shops.run("UPDATE nudge_change_log SET version = 9007199254740991 WHERE id = 'a'").await;
    let before = shops.states().await;
    let said = shops.refused("UPDATE shop SET name = 'new'").await;
    assert!(said.contains("beyond 9007199254740991"), "{said}");
    assert_eq!(shops.states().await, before);
}

#[tokio::test]
async fn versions_go_on_above_one_that_is_ahead_of_the_clock() {
    let shops = abc().await;
    let ahead = 5_000_000_000_000_000_i64;
    shops.run(&format!("UPDATE nudge_change_log SET version = {ahead} WHERE id = 'a'")).await;
    for n in 1..=3 {
        shops.run(&format!("UPDATE shop SET name = '{n}' WHERE id = 'a'")).await;
        assert_eq!(shops.log().await["a"].0, ahead + n);
    }
    let now = nudge_runtime::clock::now().unix_micros();
    shops.run("UPDATE shop SET name = 'now' WHERE id = 'b'").await;
    let version = shops.log().await["b"].0;
    assert!((now - 1_000_000..now + 60_000_000).contains(&version), "{version} is microseconds");
}

#[tokio::test]
async fn a_hundred_thousand_rows_in_one_statement_are_recorded_each() {
    let shops = Shops::new().await;
    let numbers =
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)";
    let insert = format!("INSERT INTO shop {numbers} SELECT 'shop-' || n, 'before', NULL FROM n");
    assert_eq!(shops.recorded(&insert).await.len(), 100_000);
    let changed = shops.recorded("UPDATE shop SET name = 'after'").await;
    assert_eq!(changed.len(), 100_000);
    assert_eq!(shops.recorded("UPDATE shop SET name = 'after'").await.len(), 0);
    let deleted = shops.recorded("DELETE FROM shop").await;
    assert_eq!(deleted.len(), 100_000);
    assert!(deleted.iter().all(|(_, change)| change == "deleted"));
}

#[tokio::test]
async fn the_version_of_a_captured_change_is_read_in_its_own_transaction() {
    let shops = abc().await;
    let mut tx = shops.publisher.begin().await.unwrap();
    let update = "UPDATE shop SET name = 'here' WHERE id = 'a'";
    sqlx::query(update).execute(&mut *tx).await.unwrap();
    let recorded = shops.publisher.recorded(&mut tx, &[id("a")]).await.unwrap();
    shops.publisher.commit(tx).await.unwrap();
    assert_eq!(recorded[&id("a")].version.to_i64(), shops.log().await["a"].0);
}
