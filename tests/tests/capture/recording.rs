//! After triggers were installed, every entity is recorded once, page by page.

use std::{collections::BTreeMap, time::Duration};

use nudge_publisher::capture::{MAX_RECORDED_AT_ONCE, Tables};
use nudge_runtime::database::Kind;
use nudge_tests::{TestDatabase, database, eventually};
use sqlx::{AnyConnection, Connection};

use crate::capture::support::{INSERT_ABC, PUBLISHED, Shops, changes, tables};

#[tokio::test]
async fn every_row_of_many_pages_is_recorded_whatever_the_type_of_its_key() {
    let rows = 2 * MAX_RECORDED_AT_ONCE + 1;
    // Numbers and their texts are in different orders.
    for (key, value) in [("BIGINT", "n"), ("TEXT", "'shop ' || n")] {
        let create = format!("CREATE TABLE shop (id {key} NOT NULL PRIMARY KEY, name TEXT)");
        let shops = Shops::uncaptured(TestDatabase::new().await, &create).await;
        let fill = format!(
            "INSERT INTO shop WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < {rows}) \
             SELECT {value}, 'name' FROM up"
        );
        shops.run(&fill).await;
        let captured = shops.capture(&Tables::root("shop", "id")).await.unwrap();
        let recorded = shops.risen(&BTreeMap::new()).await;
        assert!(recorded.iter().all(|(_, change)| change == "created"));
        assert_eq!(recorded.len(), rows, "{key}");
        let before = shops.log().await;
        // More are gone than a page holds.
        captured.release().await.unwrap();
        shops.run("DELETE FROM shop WHERE name = 'name'").await;
        shops.capture(&Tables::root("shop", "id")).await.unwrap();
        let recorded = shops.risen(&before).await;
        assert!(recorded.iter().all(|(_, change)| change == "deleted"));
        assert_eq!(recorded.len(), rows, "{key}");
    }
}

/// The program that installed the triggers was killed before everything was recorded.
#[tokio::test]
async fn whoever_comes_next_records_the_rest() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    shops.run(PUBLISHED).await;
    let a = match shops.db.kind() {
        Kind::Sqlite => "CAST('a' AS BLOB)",
        Kind::Postgres => "convert_to('a', 'UTF8')",
    };
    shops.run(&format!("UPDATE nudge_capture SET recording = 7, recorded_to = {a}")).await;
    shops
        .run(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
             VALUES ('shop', 'gone', 7, 'created', 0, 7)",
        )
        .await;
    let before = shops.log().await;
    shops.capture(&tables()).await.unwrap();
    let expected = changes(&[("b", "updated"), ("c", "updated"), ("gone", "deleted")]);
    assert_eq!(shops.risen(&before).await, expected);
    let before = shops.log().await;
    shops.capture(&tables()).await.unwrap();
    assert_eq!(shops.log().await, before, "all is recorded");
}

mod once {
    use super::*;

    /// On PostgreSQL, where an entity can be locked alone.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writers_go_on_while_everything_is_recorded() {
        let shops = Shops::of(Kind::Postgres).await;
        shops.run(INSERT_ABC).await;
        shops.run(PUBLISHED).await;
        shops.run("DROP TRIGGER \"nudge:shop:0:update\" ON shop").await;
        let mut writer = AnyConnection::connect(shops.database.url()).await.unwrap();
        let lock = "BEGIN; SELECT version FROM nudge_change_log WHERE id = 'c' FOR UPDATE";
        sqlx::raw_sql(lock).execute(&mut writer).await.unwrap();
        let before = shops.log().await;
        let next = shops.opened_again().await;
        let start = tokio::spawn(async move { next.capture(&tables()).await.map(drop) });
        let recording = "SELECT count(*) FROM nudge_capture WHERE recording <> 0";
        eventually("the triggers are there, and not everything is recorded", || async {
            let query = sqlx::query_as(recording).fetch_one(shops.db.reader());
            let (recording,): (i64,) = query.await.unwrap();
            (recording == 1).then_some(())
        })
        .await;
        for number in 0..10 {
            let update = format!("UPDATE shop SET name = 'short {number}' WHERE id = 'a'");
            database::execute(shops.database.url(), &update).await;
        }
        shops.run("DELETE FROM shop WHERE id = 'b'").await;
        // The page holds a while it waits for c: it must give way before the server ends either of them.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let update = "UPDATE shop SET name = 'while c is held' WHERE id = 'a'";
        sqlx::raw_sql(update).execute(&mut writer).await.expect("no deadlock");
        assert!(!start.is_finished(), "an entity is still locked");
        sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
        start.await.unwrap().unwrap();
        let expected = changes(&[("a", "updated"), ("b", "deleted"), ("c", "updated")]);
        assert_eq!(shops.risen(&before).await, expected);
    }
}
