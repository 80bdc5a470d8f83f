//! PostgreSQL: `TRUNCATE`, `MERGE`, `COPY`, roles, search paths, and concurrent transactions.

use nudge_publisher::{Recording, capture::Tables};
use nudge_runtime::database::Kind;
use nudge_tests::{Postgres, TestDatabase, database, eventually};
use sqlx::{AnyConnection, Connection};

use crate::capture::support::{INSERT_ABC, PUBLISHED, Shops, changes, tables};

async fn abc() -> Shops {
    let shops = Shops::of(Kind::Postgres).await;
    shops.run(INSERT_ABC).await;
    shops.run("INSERT INTO menu VALUES ('a', 1, 'x'); INSERT INTO tag VALUES (1, 'b', 'y')").await;
    shops.run(PUBLISHED).await;
    shops
}

async fn of(tables: &str) -> Shops<Recording> {
    Shops::uncaptured(TestDatabase::of(Kind::Postgres).await, tables).await
}

#[tokio::test]
async fn truncate_is_the_end_of_every_row_in_it() {
    let shops = abc().await;
    assert_eq!(shops.recorded("TRUNCATE menu").await, changes(&[("a", "updated")]));
    assert_eq!(shops.recorded("TRUNCATE tag").await, changes(&[("b", "updated")]));
    shops.run("INSERT INTO tag VALUES (1, 'b', 'y')").await;
    let expected = changes(&[("a", "deleted"), ("b", "deleted"), ("c", "deleted")]);
    assert_eq!(shops.recorded("TRUNCATE shop CASCADE").await, expected);
    assert_eq!(shops.recorded("TRUNCATE shop CASCADE").await, []);
}

/// Creating triggers waits for those who use the table, and every later writer would wait behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_have_to_wait_for_a_transaction_hold_no_other_writer_up() {
    let shops = abc().await;
    let mut long = AnyConnection::connect(shops.database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE shop SET name = 'long' WHERE id = 'a'")
        .execute(&mut long)
        .await
        .unwrap();
    // This needs no lock on the table.
    let nothing = "CREATE OR REPLACE FUNCTION \"nudge:shop:touch\"(ids text[]) RETURNS void \
                   LANGUAGE plpgsql AS $$ BEGIN END $$";
    shops.run(nothing).await;
    let before = shops.log().await;
    let (next, tables) = (shops.opened_again().await, tables());
    let start = tokio::spawn(async move { next.capture(&tables).await.map(drop) });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation' \
                 AND datname = current_database()";
    eventually("it waits for the table", || async {
        let (waiting,): (i64,) = sqlx::query_as(waits).fetch_one(shops.db.reader()).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    for number in 0..10 {
        shops.run(&format!("UPDATE shop SET name = 'short {number}' WHERE id = 'b'")).await;
    }
    assert!(!start.is_finished(), "the table is still used");
    sqlx::raw_sql("COMMIT").execute(&mut long).await.unwrap();
    start.await.unwrap().unwrap();
    assert_eq!(shops.risen(&before).await.len(), 3);
    assert_eq!(shops.recorded("UPDATE shop SET name = 'seen' WHERE id = 'b'").await.len(), 1);
}

#[tokio::test]
async fn merge_and_copy_and_data_modifying_queries_are_seen() {
    let shops = abc().await;
    let merge = "MERGE INTO shop USING (VALUES ('a', 'new'), ('d', 'D'), ('b', NULL)) AS s (id, name) \
                 ON shop.id = s.id WHEN MATCHED AND s.name IS NULL THEN DELETE \
                 WHEN MATCHED THEN UPDATE SET name = s.name \
                 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name)";
    let (version,): (i64,) = sqlx::query_as("SELECT current_setting('server_version_num')::bigint")
        .fetch_one(shops.db.reader())
        .await
        .unwrap();
    // MERGE came with PostgreSQL 15.
    let merge = if version >= 150_000 {
        merge
    } else {
        "UPDATE shop SET name = 'new' WHERE id = 'a'; INSERT INTO shop VALUES ('d', 'D', NULL); \
         DELETE FROM shop WHERE id = 'b'"
    };
    let expected = changes(&[("a", "updated"), ("b", "deleted"), ("d", "created")]);
    assert_eq!(shops.recorded(merge).await, expected);
    let sql = "WITH gone AS (DELETE FROM shop WHERE id = 'c' RETURNING name) \
               INSERT INTO shop SELECT 'e', name, NULL FROM gone";
    assert_eq!(shops.recorded(sql).await, changes(&[("c", "deleted"), ("e", "created")]));

    let before = shops.log().await;
    let mut connection = sqlx::PgConnection::connect(shops.database.url()).await.unwrap();
    let mut copy = connection.copy_in_raw("COPY shop (id, name) FROM STDIN").await.unwrap();
    copy.send(&b"f\tF\ng\t\\N\n"[..]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    let expected = changes(&[("f", "created"), ("g", "created")]);
    assert_eq!(shops.risen(&before).await, expected);
    let mut copy =
        connection.copy_in_raw("COPY menu (shop_id, position, name) FROM STDIN").await.unwrap();
    let before = shops.log().await;
    copy.send(&b"a\t7\tx\na\t8\ty\nf\t1\tz\n"[..]).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 3);
    // A creation that is not published yet stays a creation.
    let expected = changes(&[("a", "updated"), ("f", "created")]);
    assert_eq!(shops.risen(&before).await, expected);
}

/// Neither a role without permissions on the change log, nor another search path, nor a session that replays a
/// replication stream bypasses the triggers.
#[tokio::test]
async fn other_roles_and_sessions_are_captured() {
    let shops = abc().await;
    let role = format!("editor_{}", std::process::id());
    shops
        .run(&format!(
            "CREATE ROLE {role}; GRANT ALL ON shop, menu, tag TO {role}; \
             CREATE SCHEMA elsewhere; GRANT ALL ON SCHEMA elsewhere TO {role}; \
             CREATE TABLE elsewhere.nudge_change_log (LIKE nudge_change_log); \
             CREATE FUNCTION elsewhere.cardinality(text[]) RETURNS int LANGUAGE sql AS $$ SELECT 0 $$"
        ))
        .await;
    for (n, session) in [
        format!("SET ROLE {role}"),
        "SET search_path = elsewhere, pg_catalog".to_owned(),
        "SET session_replication_role = replica".to_owned(),
        "SET extra_float_digits = -15".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let sql = format!("{session}; UPDATE public.shop SET name = 'by {n}' WHERE id = 'a'");
        assert_eq!(shops.recorded(&sql).await, changes(&[("a", "updated")]), "{session}");
    }
    let sql = format!("SET ROLE {role}; SELECT public.\"nudge:shop:touch\"(ARRAY['a'])");
    assert!(shops.refused(&sql).await.contains("permission denied"));
    shops.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn columns_of_any_type_are_compared_and_keys_may_be_numbers_or_uuids() {
    for (key_type, key) in [("bigint", "42"), ("uuid", "'6f1b3c9e-8d0a-4b6e-9f57-0c1d2e3f4a5b'")] {
        let shops = of(&format!(
            "CREATE TABLE shop (id {key_type} PRIMARY KEY, data json, number double precision, more numeric); \
             CREATE TABLE menu (shop_id {key_type} REFERENCES shop ON DELETE CASCADE, name text); \
             INSERT INTO shop VALUES ({key}, '{{}}', 0.1, 1.0)"
        ))
        .await;
        shops.capture(&Tables::root("shop", "id").child("menu", "shop_id")).await.unwrap();
        for sql in [
            "UPDATE shop SET data = '{\"a\":1}'",
            "UPDATE shop SET number = 0.1 + 1e-17::double precision * 2",
            "UPDATE shop SET more = 1.00",
            &format!("INSERT INTO menu VALUES ({key}, 'x')"),
            "DELETE FROM menu",
        ] {
            assert_eq!(shops.recorded(sql).await.len(), 1, "{key_type}: {sql}");
        }
        let same = "UPDATE shop SET data = data, number = number, more = more";
        assert_eq!(shops.recorded(same).await, []);
        let gone = shops.recorded("DELETE FROM shop").await;
        assert_eq!(gone, changes(&[(key.trim_matches('\''), "deleted")]));
    }
}

#[tokio::test]
async fn tables_whose_parts_can_be_written_alone_are_refused() {
    for tables in [
        "CREATE TABLE shop (id text, name text) PARTITION BY LIST (name)",
        "CREATE TABLE shop (id text, name text); CREATE TABLE more () INHERITS (shop)",
    ] {
        let error = of(tables).await.capture(&Tables::root("shop", "id")).await.unwrap_err();
        assert!(error.to_string().contains("not an ordinary table"), "{error}");
    }
}

/// A row of a child is written while another transaction deletes its shop, without a foreign key to keep them apart.
/// Both record the shop, and the second must see what the first has done.
#[tokio::test]
async fn a_child_written_while_its_shop_is_deleted_does_not_bring_it_back() {
    let shops = abc().await;
    let url = shops.database.url();
    sqlx::any::install_default_drivers();
    let mut first = AnyConnection::connect(url).await.unwrap();
    sqlx::raw_sql("BEGIN; DELETE FROM shop WHERE id = 'b'").execute(&mut first).await.unwrap();
    let url = url.to_owned();
    let second = tokio::spawn(async move {
        database::execute(&url, "UPDATE tag SET word = 'late' WHERE shop_id = 'b'").await;
    });
    waits_for_a_lock(&shops.database).await;
    sqlx::raw_sql("COMMIT").execute(&mut first).await.unwrap();
    second.await.unwrap();
    let log = shops.log().await;
    assert_eq!((log["b"].1.as_str(), log["b"].2), ("deleted", true));
    shops.risen(&log).await;
}

/// A writer holds a lock on a row; the relay must neither wait for it nor make it wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_publishes_past_rows_that_a_writer_keeps_locked() {
    let nats = nudge_tests::Nats::start().await;
    let shops = abc().await;
    shops.run("UPDATE shop SET name = 'pending'").await;
    let mut writer = AnyConnection::connect(shops.database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE shop SET name = 'held' WHERE id = 'b'")
        .execute(&mut writer)
        .await
        .unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let relay = shops.publisher.spawn_relay(&nats.broker("shops").await, stop.clone());
    let published = || async {
        let sql = "SELECT id FROM nudge_change_log WHERE version = published_version ORDER BY id";
        let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(shops.db.reader()).await.unwrap();
        rows.into_iter().map(|(id,)| id).collect::<Vec<_>>()
    };
    nudge_tests::eventually("the others are published", || async {
        (published().await == ["a", "c"]).then_some(())
    })
    .await;
    // It locks what the relay has just written to, in another order.
    sqlx::raw_sql("UPDATE shop SET name = 'held' WHERE id = 'c'; UPDATE shop SET name = 'held' WHERE id = 'a'; COMMIT")
        .execute(&mut writer)
        .await
        .unwrap();
    nudge_tests::eventually("all is published", || async {
        (published().await == ["a", "b", "c"]).then_some(())
    })
    .await;
    stop.cancel();
    relay.await.unwrap();
}

/// More rows are locked than a relay publishes at a time. Each is published once, and other changes are not delayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_locked_rows_hold_up_no_fresh_change_and_are_published_once() {
    let nats = nudge_tests::Nats::start().await;
    let shops = abc().await;
    const ROWS: i64 = 5_000;
    let many = format!(
        "INSERT INTO shop SELECT 'n' || n, 'new', NULL FROM generate_series(1, {ROWS}) AS n"
    );
    shops.run(&many).await;
    let mut writer = AnyConnection::connect(shops.database.url()).await.unwrap();
    let hold = "BEGIN; UPDATE shop SET name = 'held' WHERE id LIKE 'n%'";
    sqlx::raw_sql(hold).execute(&mut writer).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let relay = shops.publisher.spawn_relay(&nats.broker("shops").await, stop.clone());
    let pending = async || {
        let sql = "SELECT count(*) FROM nudge_change_log WHERE version <> published_version AND id NOT LIKE 'n%'";
        let (count,): (i64,) = sqlx::query_as(sql).fetch_one(shops.db.reader()).await.unwrap();
        count
    };
    let last_seq = async || {
        let stream = nats.jetstream().await.get_stream("CHANGES_shop").await;
        stream.map_or(0, |stream| stream.cached_info().state.last_sequence as i64)
    };
    nudge_tests::eventually("the locked rows are published", || async {
        (last_seq().await >= ROWS).then_some(())
    })
    .await;
    for n in 0..20 {
        shops.run(&format!("UPDATE shop SET name = 'fresh {n}' WHERE id = 'a'")).await;
        nudge_tests::eventually("it is published", || async {
            (pending().await == 0).then_some(())
        })
        .await;
    }
    let spent = last_seq().await;
    assert!(spent <= ROWS + 50, "{spent} messages for {ROWS} locked rows and 20 changes");
    sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.unwrap();
    nudge_tests::eventually("all is recorded", || async {
        let sql = "SELECT count(*) FROM nudge_change_log WHERE version <> published_version";
        let (count,): (i64,) = sqlx::query_as(sql).fetch_one(shops.db.reader()).await.unwrap();
        (count == 0).then_some(())
    })
    .await;
    assert_eq!(last_seq().await, spent, "recorded, and not published again");
    stop.cancel();
    relay.await.unwrap();
}

async fn waits_for_a_lock(database: &TestDatabase) {
    let server = Postgres::shared().await;
    let name = database.url().rsplit('/').next().unwrap().to_owned();
    let mut look = AnyConnection::connect(server.url()).await.unwrap();
    loop {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
        let (waiting,): (i64,) =
            sqlx::query_as(sql).bind(name.clone()).fetch_one(&mut look).await.unwrap();
        if waiting > 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Someone edits a store by hand, its menus first, while a request rewrites it, the store first. PostgreSQL aborts one
/// of them. If that is the request, nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_the_victim_of_a_deadlock_is_tried_again() {
    let database = TestDatabase::of(Kind::Postgres).await;
    let name = database.url().rsplit('/').next().unwrap().to_owned();
    let patience = format!("ALTER DATABASE {name} SET deadlock_timeout = '1s'");
    database::execute(database.url(), &patience).await;
    let args = <store_info::Args as clap::Parser>::parse_from([
        "store-info",
        "--bind=127.0.0.1:0",
        "--nats-url=nats://127.0.0.1:1",
        &format!("--database-url={}", database.url()),
    ]);
    let stop = tokio_util::sync::CancellationToken::new();
    let service = store_info::start(&args, stop.clone()).await.unwrap();
    let url = format!("http://{}/stores/s1", service.address());
    let put = |name: &'static str| {
        let body = serde_json::json!({"name": name, "menus": [{"name": "m", "price": 1}]});
        reqwest::Client::new().put(&url).json(&body).send()
    };
    assert_eq!(put("before").await.unwrap().status(), 201);

    let mut editor = AnyConnection::connect(database.url()).await.unwrap();
    // The session that waits longest is not the one that detects the deadlock.
    sqlx::raw_sql(
        "SET deadlock_timeout = '60s'; BEGIN; UPDATE store_menu SET price = 2 WHERE store_id = 's1'",
    )
    .execute(&mut editor)
    .await
    .unwrap();
    let request = tokio::spawn(put("after"));
    waits_for_a_lock(&database).await;
    sqlx::raw_sql("UPDATE store SET phone = 'by hand' WHERE id = 's1'; COMMIT")
        .execute(&mut editor)
        .await
        .unwrap();
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let store: serde_json::Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
    assert_eq!(store["name"], "after");
    stop.cancel();
    service.stopped().await;
}

#[tokio::test]
async fn truncate_above_read_committed_is_refused_since_it_removes_what_it_does_not_see() {
    let shops = abc().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for table in ["shop CASCADE", "menu"] {
            let sql = format!("BEGIN ISOLATION LEVEL {level}; TRUNCATE {table}; COMMIT");
            let refused = shops.refused(&sql).await;
            assert!(refused.contains("must run at READ COMMITTED"), "{refused}");
        }
    }
    assert_eq!(shops.recorded("TRUNCATE shop CASCADE").await.len(), 3);
}

#[tokio::test]
async fn keys_without_one_text_each_are_refused_by_name() {
    for key_type in
        ["char(36)", "bit(8)", "name", "numeric", "double precision", "timestamptz", "word"]
    {
        let shops = of(&format!(
            "CREATE DOMAIN word AS text; CREATE TABLE shop (id {key_type} PRIMARY KEY, name text)"
        ))
        .await;
        let error = shops.capture(&Tables::root("shop", "id")).await.unwrap_err().to_string();
        assert!(error.contains("has the key id of type"), "{key_type}: {error}");
    }
    for (key_type, key) in [("varchar(9)", "'abc'"), ("smallint", "7"), ("integer", "7")] {
        let shops = of(&format!("CREATE TABLE shop (id {key_type} PRIMARY KEY, name text)")).await;
        shops.capture(&Tables::root("shop", "id")).await.unwrap();
        let seen = shops.recorded(&format!("INSERT INTO shop VALUES ({key}, 'A')")).await;
        assert_eq!(seen, changes(&[(key.trim_matches('\''), "created")]));
    }
}

/// Rows of a table without a key may be equal: if one of two equal rows becomes equal to a third, that is a change.
#[tokio::test]
async fn rows_that_are_alike_are_counted() {
    let shops =
        of("CREATE TABLE shop (id text PRIMARY KEY); CREATE TABLE menu (shop_id text, name text)")
            .await;
    shops.capture(&Tables::root("shop", "id").child("menu", "shop_id")).await.unwrap();
    shops.run("INSERT INTO shop VALUES ('a'); INSERT INTO menu VALUES ('a', 'x'), ('a', 'x'), ('a', 'y')").await;
    let sql = "UPDATE menu SET name = CASE WHEN ctid = (SELECT min(ctid) FROM menu) THEN 'y' ELSE name END";
    assert_eq!(shops.recorded(sql).await, changes(&[("a", "created")]));
}

#[tokio::test]
async fn what_a_logical_replication_writes_is_captured() {
    let source = of("CREATE TABLE shop (id text PRIMARY KEY, name text)").await;
    let shops = of("CREATE TABLE shop (id text PRIMARY KEY, name text)").await;
    shops.capture(&Tables::root("shop", "id")).await.unwrap();
    let slot = format!("nudge_{}", source.database.url().rsplit('/').next().unwrap());
    source
        .run(&format!("SELECT count(pg_create_logical_replication_slot('{slot}', 'pgoutput'))"))
        .await;
    source.run("CREATE PUBLICATION shops FOR TABLE shop").await;
    // On the same server, a subscription that creates its own slot would wait for itself.
    shops
        .run(&format!(
            "CREATE SUBSCRIPTION {slot} CONNECTION '{}' PUBLICATION shops \
             WITH (create_slot = false, slot_name = '{slot}', copy_data = false)",
            source.database.url()
        ))
        .await;
    for (sql, expected) in [
        (
            "INSERT INTO shop VALUES ('a', 'A'), ('b', 'B')",
            vec![("a", "created"), ("b", "created")],
        ),
        ("UPDATE shop SET name = 'new' WHERE id = 'a'", vec![("a", "created")]),
        ("DELETE FROM shop WHERE id = 'b'", vec![("b", "deleted")]),
    ] {
        let before = shops.log().await;
        source.run(sql).await;
        nudge_tests::eventually(sql, || async {
            (shops.risen(&before).await == changes(&expected)).then_some(())
        })
        .await;
    }
    shops.run(&format!("DROP SUBSCRIPTION {slot}")).await;
}

/// A session keeps the plan by which it records one entity, even one that was made when each table had a single page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_entity_is_looked_up_by_its_key_however_small_the_tables_were() {
    let shops = Shops::of(Kind::Postgres).await;
    shops.run(INSERT_ABC).await;
    shops.run("ANALYZE").await;
    let mut writer = AnyConnection::connect(shops.database.url()).await.unwrap();
    for _ in 0..10 {
        let update = "UPDATE shop SET name = name || '!' WHERE id = 'a'";
        sqlx::raw_sql(update).execute(&mut writer).await.unwrap();
    }
    // In one transaction, so that nobody analyzes it in between.
    let fill = "BEGIN; INSERT INTO shop (id, name) SELECT 's' || n, 'S' FROM generate_series(1, 20000) AS n";
    sqlx::raw_sql(fill).execute(&mut writer).await.unwrap();
    let scans = "SELECT COALESCE(sum(seq_scan), 0)::bigint FROM pg_stat_xact_user_tables \
                 WHERE relname IN ('shop', 'nudge_change_log')";
    let mut counted = Vec::new();
    for sql in ["UPDATE shop SET name = 'B' WHERE id = 'b'", "INSERT INTO shop (id) VALUES ('d')"] {
        let (before,): (i64,) = sqlx::query_as(scans).fetch_one(&mut writer).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut writer).await.unwrap();
        let (after,): (i64,) = sqlx::query_as(scans).fetch_one(&mut writer).await.unwrap();
        counted.push(after - before);
    }
    assert_eq!(counted, [0, 0]);
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    writer.close().await.unwrap();
}
