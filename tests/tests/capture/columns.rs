//! Columns are added, dropped and retyped, by a release's migrations and by hand while a program runs.

use nudge_runtime::{
    Broker,
    database::{Kind, Migration},
};
use nudge_tests::{database, eventually};
use tokio_util::sync::CancellationToken;

use crate::capture::support::{INSERT_ABC, PUBLISHED, Shops, changes, tables};

/// What the next releases do to the shops, one step each. SQLite cannot retype a column, so the table is recreated.
const RELEASES: [Migration; 3] = [
    Migration {
        number: 1,
        title: "a phone",
        sqlite: "ALTER TABLE shop ADD COLUMN phone TEXT",
        postgres: "ALTER TABLE shop ADD COLUMN phone TEXT",
    },
    Migration {
        number: 2,
        title: "no name",
        sqlite: "ALTER TABLE shop DROP COLUMN name",
        postgres: "ALTER TABLE shop DROP COLUMN name",
    },
    Migration {
        number: 3,
        title: "a phone is a number",
        sqlite:
            "CREATE TABLE shop_new (id TEXT NOT NULL PRIMARY KEY, code TEXT UNIQUE, phone BIGINT);
            INSERT INTO shop_new SELECT id, code, phone FROM shop;
            DROP TABLE shop;
            ALTER TABLE shop_new RENAME TO shop",
        postgres: "ALTER TABLE shop ALTER COLUMN phone TYPE BIGINT USING phone::BIGINT",
    },
];

#[tokio::test]
async fn a_release_may_add_drop_and_retype_columns_and_its_changes_are_captured() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    for releases in 1..=RELEASES.len() {
        let migrations = &RELEASES[..releases];
        shops.run(PUBLISHED).await;
        let before = shops.log().await;
        shops.opened_again().await.publisher.migrate("shops", migrations).await.unwrap();
        shops.capture(&tables()).await.unwrap();
        let all = changes(&[("a", "updated"), ("b", "updated"), ("c", "updated")]);
        assert_eq!(shops.risen(&before).await, all, "nobody knows what changed meanwhile");
        let sql = format!("UPDATE shop SET phone = '{releases}' WHERE id = 'b'");
        assert_eq!(shops.recorded(&sql).await.len(), 1, "{releases}");
        assert_eq!(shops.recorded("INSERT INTO menu VALUES ('a', 1, 'x')").await.len(), 1);
        assert_eq!(shops.recorded("DELETE FROM menu").await.len(), 1);
        // The next start of the same release.
        shops.run(PUBLISHED).await;
        let before = shops.log().await;
        shops.opened_again().await.publisher.migrate("shops", migrations).await.unwrap();
        shops.capture(&tables()).await.unwrap();
        assert_eq!(shops.log().await, before);
    }
}

/// A failed migration leaves the triggers as they were on SQLite; on PostgreSQL, the next start installs them.
#[tokio::test]
async fn after_a_migration_that_failed_nothing_goes_unnoticed() {
    let shops = Shops::new().await;
    shops.run(INSERT_ABC).await;
    let wrong = "ALTER TABLE shop DROP COLUMN nothing_is_called_so";
    let wrong = Migration { number: 1, title: "wrong", sqlite: wrong, postgres: wrong };
    let before = shops.log().await;
    shops.opened_again().await.publisher.migrate("shops", &[wrong]).await.unwrap_err();
    shops.run("UPDATE shop SET name = 'meanwhile' WHERE id = 'a'").await;
    shops.capture(&tables()).await.unwrap();
    let risen = shops.risen(&before).await;
    assert!(risen.iter().any(|(id, _)| id == "a"), "{risen:?}");
    assert_eq!(shops.recorded("UPDATE shop SET name = 'B' || name WHERE id = 'b'").await.len(), 1);
}

/// The promises in `docs/schema.md`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_may_be_dropped_under_a_running_program() {
    let shops = Shops::new().await;
    let stop = CancellationToken::new();
    let broker = Broker::connect("nats://127.0.0.1:1", "shops").await.unwrap();
    let relay = shops.publisher.spawn_relay(&broker, stop.clone());
    shops.run(INSERT_ABC).await;
    let drop = "ALTER TABLE shop DROP COLUMN name";
    match database::kind() {
        Kind::Sqlite => {
            let refused = shops.refused(drop).await;
            assert!(refused.contains("nudge:shop:"), "it names the obstacle: {refused}");
            let sql = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'nudge:shop:%'";
            let names: Vec<(String,)> =
                sqlx::query_as(sql).fetch_all(shops.db.reader()).await.unwrap();
            assert!(!names.is_empty());
            let drops = names.iter().map(|(name,)| format!("DROP TRIGGER \"{name}\"; "));
            let before = shops.log().await;
            shops.run(&format!("BEGIN; {}{drop}; COMMIT", drops.collect::<String>())).await;
            eventually("all are recorded once", || async {
                (shops.risen(&before).await.len() == 3).then_some(())
            })
            .await;
        }
        // Its triggers compare whole rows.
        Kind::Postgres => shops.run(drop).await,
    }
    eventually("all is well", || async { (!shops.publisher.is_capture_lost()).then_some(()) })
        .await;
    assert_eq!(shops.recorded("UPDATE shop SET code = 'new' WHERE id = 'b'").await.len(), 1);
    stop.cancel();
    relay.await.unwrap();
}
