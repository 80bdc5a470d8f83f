//! Checking, creating, repairing and removing the triggers.

use nudge_protocol::Change;
use nudge_publisher::capture::Tables;
use nudge_runtime::database::Kind;
use nudge_tests::id;

use crate::capture::support::{INSERT_ABC, Shops, changes, tables};

#[tokio::test]
async fn what_was_there_before_is_recorded_at_the_first_start_and_not_at_the_next() {
    let shops = Shops::unseen().await;
    shops.run(INSERT_ABC).await;
    assert!(shops.log().await.is_empty());
    shops.capture(&tables()).await.unwrap();
    let first = shops.log().await;
    assert_eq!(first.len(), 3);
    shops.capture(&tables()).await.unwrap();
    assert_eq!(shops.log().await, first);
}

#[tokio::test]
async fn what_was_deleted_unseen_gets_its_tombstone() {
    let shops = Shops::unseen().await;
    shops.run(INSERT_ABC).await;
    let mut tx = shops.publisher.begin().await.unwrap();
    for key in ["a", "gone"] {
        shops.publisher.record(&mut tx, &id(key), Change::Updated).await.unwrap();
    }
    shops.publisher.commit(tx).await.unwrap();
    let before = shops.log().await;
    shops.capture(&tables()).await.unwrap();
    let expected = [("a", "updated"), ("b", "created"), ("c", "created"), ("gone", "deleted")];
    assert_eq!(shops.risen(&before).await, changes(&expected));
}

/// Someone recreated the table or dropped a trigger, so nobody knows what has changed since.
#[tokio::test]
async fn a_trigger_that_is_missing_is_made_again_and_everything_is_recorded_once() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    let drop = match shops.db.kind() {
        Kind::Sqlite => "DROP TRIGGER \"nudge:shop:0:update\"",
        Kind::Postgres => "DROP TRIGGER \"nudge:shop:0:update\" ON shop",
    };
    shops.run(drop).await;
    assert_eq!(shops.recorded("UPDATE shop SET name = 'unseen'").await, []);
    let before = shops.log().await;
    shops.capture(&tables()).await.unwrap();
    assert_eq!(shops.risen(&before).await.len(), 3);
    assert_eq!(shops.recorded("UPDATE shop SET name = 'seen'").await.len(), 3);
}

#[tokio::test]
async fn a_new_column_is_captured_after_the_next_start() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    shops.run("ALTER TABLE shop ADD COLUMN phone TEXT").await;
    shops.capture(&tables()).await.unwrap();
    let sql = "UPDATE shop SET phone = '02-123' WHERE id = 'b'";
    assert_eq!(shops.recorded(sql).await.len(), 1);
}

#[tokio::test]
async fn further_tables_are_captured_after_the_next_start() {
    let shops = Shops::unseen().await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    shops.run(INSERT_ABC).await;
    let sql = "INSERT INTO menu VALUES ('a', 1, 'x')";
    assert_eq!(shops.recorded(sql).await, []);
    shops.capture(&tables()).await.unwrap();
    assert_eq!(shops.recorded("DELETE FROM menu").await.len(), 1);
}

#[tokio::test]
async fn released_tables_are_recorded_by_hand_again() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    let publisher = shops.publisher.clone().release().await.unwrap();
    assert_eq!(shops.recorded("UPDATE shop SET name = 'unseen'").await, []);
    let mut tx = publisher.begin().await.unwrap();
    publisher.record(&mut tx, &id("a"), Change::Updated).await.unwrap();
    publisher.commit(tx).await.unwrap();
    let before = shops.log().await;
    shops.capture(&tables()).await.unwrap();
    assert_eq!(shops.risen(&before).await.len(), 3);
}

#[tokio::test]
async fn two_entities_of_one_database_are_captured_apart() {
    let shops = Shops::new().await;
    let entity = nudge_protocol::EntityName::new("shop-tag").unwrap();
    let tags = nudge_publisher::Publisher::open(&shops.db, entity).await.unwrap();
    tags.clone().capture(&Tables::root("tag", "number")).await.unwrap();
    shops.run(INSERT_ABC).await;
    shops.run("INSERT INTO tag VALUES (7, 'a', 'new')").await;
    let sql = "SELECT entity, id FROM nudge_change_log ORDER BY entity, id";
    let rows: Vec<(String, String)> =
        sqlx::query_as(sql).fetch_all(shops.db.reader()).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|(entity, id)| format!("{entity}/{id}")).collect();
    assert_eq!(rows, ["shop/a", "shop/b", "shop/c", "shop-tag/7"]);
    // One's name is a prefix of the other's.
    shops.publisher.clone().release().await.unwrap();
    let sql = "UPDATE tag SET word = 'other'";
    let before = sqlx::query_as("SELECT version FROM nudge_change_log WHERE entity = 'shop-tag'");
    let before: (i64,) = before.fetch_one(shops.db.reader()).await.unwrap();
    shops.run(sql).await;
    let after = sqlx::query_as("SELECT version FROM nudge_change_log WHERE entity = 'shop-tag'");
    let after: (i64,) = after.fetch_one(shops.db.reader()).await.unwrap();
    assert!(after > before);
}

#[tokio::test]
async fn tables_that_cannot_be_captured_are_refused_by_name_and_nothing_is_made() {
    let shops = Shops::unseen().await;
    shops.run("CREATE VIEW seen AS SELECT id, name FROM shop").await;
    for (tables, problem) in [
        (Tables::root("nowhere", "id"), "nowhere does not exist"),
        (Tables::root("shop", "key"), "shop has no column key"),
        (Tables::root("seen", "id"), "table seen is"),
        (tables().child("nowhere", "shop_id"), "nowhere does not exist"),
        (tables().child("menu", "shop"), "menu has no column shop"),
    ] {
        let error = shops.capture(&tables).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    shops.run(&INSERT_ABC.replace("'a', 'A'", "'', 'A'")).await;
    let error = shops.capture(&tables()).await.unwrap_err().to_string();
    assert!(error.contains("\"\" in table shop is not a valid ID"), "{error}");
    assert!(shops.log().await.is_empty(), "nothing captures them");
}
