//! Triggers that are missing from a table: noticed at a start, while the program runs, and by a write.

use nudge_protocol::EntityName;
use nudge_publisher::Publisher;
use nudge_runtime::{Broker, database::Kind};
use nudge_tests::{TestDatabase, database, eventually, id};
use store_info::{
    domain::{Decision, GivenId, Store},
    storage::{Stores, WriteError},
};
use tokio_util::sync::CancellationToken;

use crate::capture::support::{INSERT_ABC, Shops, tables};

/// Ways to remove the triggers, or to make them miss something.
fn ways(kind: Kind) -> Vec<(&'static str, &'static str)> {
    let renamed = "ALTER TABLE shop RENAME TO shop_old; \
                   CREATE TABLE shop (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE); \
                   INSERT INTO shop SELECT id, name, code FROM shop_old";
    let renamed_child = "ALTER TABLE tag RENAME TO tag_old; \
                         CREATE TABLE tag (number INTEGER PRIMARY KEY, shop_id TEXT, word TEXT)";
    match kind {
        Kind::Sqlite => vec![
            ("renamed", renamed),
            ("a child renamed", renamed_child),
            ("dropped", "DROP TRIGGER \"nudge:shop:0:insert\""),
            (
                "recreated, and does nothing",
                "DROP TRIGGER \"nudge:shop:0:insert\"; CREATE TRIGGER \"nudge:shop:0:insert\" \
                 AFTER INSERT ON shop BEGIN SELECT 1; END",
            ),
        ],
        Kind::Postgres => vec![
            ("renamed", renamed),
            ("a child renamed", renamed_child),
            ("dropped", "DROP TRIGGER \"nudge:shop:0:insert\" ON shop"),
            ("switched off", "ALTER TABLE shop DISABLE TRIGGER ALL"),
            ("for local sessions alone", "ALTER TABLE shop ENABLE TRIGGER \"nudge:shop:0:insert\""),
            (
                "for some rows alone",
                "DROP TRIGGER \"nudge:shop:0:insert\" ON shop; CREATE TRIGGER \"nudge:shop:0:insert\" \
                 AFTER INSERT ON shop REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT \
                 WHEN (current_setting('application_name') = 'nudge') \
                 EXECUTE FUNCTION \"nudge:shop:0:insert\"(); \
                 ALTER TABLE shop ENABLE ALWAYS TRIGGER \"nudge:shop:0:insert\"",
            ),
            (
                "for another event",
                "DROP TRIGGER \"nudge:shop:0:insert\" ON shop; CREATE TRIGGER \"nudge:shop:0:insert\" \
                 AFTER UPDATE ON shop REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT \
                 EXECUTE FUNCTION \"nudge:shop:0:insert\"(); \
                 ALTER TABLE shop ENABLE ALWAYS TRIGGER \"nudge:shop:0:insert\"",
            ),
            (
                "for one column alone",
                "DROP TRIGGER \"nudge:shop:0:replicated\" ON shop; CREATE TRIGGER \"nudge:shop:0:replicated\" \
                 AFTER INSERT OR UPDATE OF code OR DELETE ON shop FOR EACH ROW \
                 EXECUTE FUNCTION \"nudge:shop:0:replicated\"(); \
                 ALTER TABLE shop ENABLE REPLICA TRIGGER \"nudge:shop:0:replicated\"",
            ),
            (
                "with the permissions of the session that fires it",
                "ALTER FUNCTION \"nudge:shop:0:insert\"() SECURITY INVOKER",
            ),
            (
                "with the search path of the session that fires it",
                "ALTER FUNCTION \"nudge:shop:0:insert\"() RESET search_path",
            ),
            (
                "a function that does nothing",
                "CREATE OR REPLACE FUNCTION \"nudge:shop:touch\"(ids text[]) RETURNS void \
                 LANGUAGE plpgsql AS $$ BEGIN END $$",
            ),
        ],
    }
}

#[tokio::test]
async fn triggers_that_are_not_on_the_table_are_installed_again_at_the_next_start() {
    for (what, sql) in ways(database::kind()) {
        let shops = Shops::new().await;
        shops.run(INSERT_ABC).await;
        shops.run(sql).await;
        let before = shops.log().await;
        shops.capture(&tables()).await.unwrap();
        assert_eq!(shops.risen(&before).await.len(), 3, "{what}");
        let seen = shops.recorded("INSERT INTO shop VALUES ('d', 'D', 'code-d')").await;
        assert_eq!(seen.len(), 1, "{what}");
        let before = shops.log().await;
        shops.capture(&tables()).await.unwrap();
        assert_eq!(shops.log().await, before, "{what}: nothing is left to repair");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_are_not_on_the_table_are_installed_again_while_the_program_runs() {
    for (what, sql) in ways(database::kind()) {
        let shops = Shops::new().await;
        let stop = CancellationToken::new();
        let broker = Broker::connect("nats://127.0.0.1:1", "shops").await.unwrap();
        let relay = shops.publisher.spawn_relay(&broker, stop.clone());
        shops.run(INSERT_ABC).await;
        shops.run(sql).await;
        let before = shops.log().await;
        eventually(what, || async { (shops.risen(&before).await.len() == 3).then_some(()) }).await;
        eventually("all is well", || async { (!shops.publisher.is_capture_lost()).then_some(()) })
            .await;
        let seen = shops.recorded("INSERT INTO shop VALUES ('d', 'D', 'code-d')").await;
        assert_eq!(seen.len(), 1, "{what}");
        stop.cancel();
        relay.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_is_told_and_captured_once_it_is_back() {
    let shops = Shops::new().await;
    let stop = CancellationToken::new();
    let broker = Broker::connect("nats://127.0.0.1:1", "shops").await.unwrap();
    let relay = shops.publisher.spawn_relay(&broker, stop.clone());
    shops.run("ALTER TABLE shop RENAME TO elsewhere").await;
    eventually("it is told", || async { shops.publisher.is_capture_lost().then_some(()) }).await;
    shops.run("ALTER TABLE elsewhere RENAME TO shop").await;
    eventually("it is well", || async { (!shops.publisher.is_capture_lost()).then_some(()) }).await;
    assert_eq!(shops.recorded(INSERT_ABC).await.len(), 3);
    stop.cancel();
    relay.await.unwrap();
}

/// Here no task checks; the write itself finds out.
#[tokio::test]
async fn a_write_that_nobody_would_hear_of_is_refused_and_nothing_is_written() {
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let publisher = Publisher::open(&db, EntityName::new("store").unwrap()).await.unwrap();
    let stores = Stores::open(&db, publisher, Default::default()).await.unwrap();
    let state = |name: &str| {
        let json = serde_json::json!({"name": name});
        Box::new(Store::read(&json, GivenId::InPath(&id("s"))).unwrap())
    };
    let save = async |name: &str| {
        let state = state(name);
        stores.write(&id("s"), move |_| Ok(Decision::Save(state.clone()))).await
    };
    save("seen").await.unwrap();
    let drop = match db.kind() {
        Kind::Sqlite => {
            "DROP TRIGGER \"nudge:store:0:update\"; DROP TRIGGER \"nudge:store:0:delete\""
        }
        Kind::Postgres => "ALTER TABLE store DISABLE TRIGGER ALL",
    };
    database::execute(database.url(), drop).await;
    assert!(matches!(save("unheard of").await, Err(WriteError::NotCaptured)));
    let delete = stores.write(&id("s"), |_| Ok(Decision::Delete)).await;
    assert!(matches!(delete, Err(WriteError::NotCaptured)));
    let (name,): (String,) =
        sqlx::query_as("SELECT name FROM store").fetch_one(db.reader()).await.unwrap();
    assert_eq!(name, "seen");
}

/// Two releases with different definitions of a shop must not keep replacing each other's triggers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_do_not_undo_each_others_triggers() {
    let older = Shops::new().await;
    let stop = CancellationToken::new();
    let broker = Broker::connect("nats://127.0.0.1:1", "shops").await.unwrap();
    let relay = older.publisher.spawn_relay(&broker, stop.clone());
    let newer = older.opened_again().await;
    let fewer = nudge_publisher::capture::Tables::root("shop", "id").child("menu", "shop_id");
    newer.capture(&fewer).await.unwrap();
    let before = older.log().await;
    older.run(INSERT_ABC).await;
    // Long enough for the older one to have checked.
    tokio::time::sleep(2 * nudge_publisher::capture::LOOK_INTERVAL).await;
    assert_eq!(older.recorded("INSERT INTO tag VALUES (1, 'b', 'y')").await, []);
    assert_eq!(older.risen(&before).await.len(), 3);
    assert!(!older.publisher.is_capture_lost());
    stop.cancel();
    relay.await.unwrap();
}
