//! Somebody opens a transaction in psql, locks one store, and goes for coffee.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use nudge_runtime::database::{Kind, LOCK_TIMEOUT, POSTGRES_WRITERS};
use nudge_tests::{Nats, Services, TestDatabase, database, eventually};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection};
use tokio::task::JoinSet;

/// More than a program has connections.
const WRITES: usize = 24;

/// Three services on PostgreSQL with two stores, the first of which is locked.
async fn with_a_locked_store(nats: &Nats) -> (Services, AnyConnection) {
    let services = Services::start_on(nats, Kind::Postgres).await;
    services.put_store("locked", json!({"name": "달빛국수", "open": true})).await;
    services.put_store("free", json!({"name": "별빛김밥", "open": true})).await;
    let url = services.store_info_database().url();
    let mut somebody = AnyConnection::connect(url).await.expect("a connection");
    let lock = "BEGIN; SELECT id FROM store WHERE id = 'locked' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut somebody).await.expect("a lock");
    (services, somebody)
}

async fn put(http: Client, url: String, name: String) -> Response {
    let put = http.put(url).json(&json!({"name": name, "open": true})).send();
    // It may queue behind others before it waits for the lock itself.
    tokio::time::timeout(LOCK_TIMEOUT * 5, put).await.expect("no hang").expect("an answer")
}

/// Number of sessions that wait for a lock.
async fn waiting(database: &TestDatabase) -> i64 {
    let mut look = AnyConnection::connect(database.url()).await.expect("a connection");
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let (waiting,) = sqlx::query_as(sql).fetch_one(&mut look).await.expect("a count");
    waiting
}

async fn found(services: &Services, text: &str) -> Value {
    let request = services.http.get(services.search("/stores")).query(&[("q", text)]);
    request.send().await.expect("an answer").json::<Value>().await.expect("JSON")["ids"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_who_wait_for_a_locked_row_hold_up_neither_readers_nor_the_relay() {
    let nats = Nats::start().await;
    let (services, mut somebody) = with_a_locked_store(&nats).await;
    let (mut writes, answered) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for n in 0..WRITES {
        let (http, url) = (services.http.clone(), services.store_info("/stores/locked"));
        let answered = answered.clone();
        writes.spawn(async move {
            let answer = put(http, url, format!("햇살 {n}호점")).await;
            answered.fetch_add(1, SeqCst);
            answer
        });
    }
    let database = services.store_info_database();
    eventually("as many writers wait as can", || async {
        (waiting(database).await == i64::from(POSTGRES_WRITERS)).then_some(())
    })
    .await;

    // A change of another store, bypassing the service, which could not accept it right now.
    database::execute(database.url(), "UPDATE store SET name = '새벽빵집' WHERE id = 'free'").await;
    let get = async |path: &str| services.http.get(services.store_info(path)).send().await;
    for path in ["/stores/locked", "/stores/free", "/stores", "/readyz", "/sync/v1/store/locked"] {
        assert_eq!(get(path).await.expect("an answer").status(), 200, "{path}");
    }
    let batch = services.http.post(services.store_info("/sync/v1/store/batch-get"));
    let batch = batch.json(&json!({"ids": ["free", "locked"]})).send().await.expect("an answer");
    let states: Value = batch.json().await.expect("JSON");
    assert_eq!(states["items"][0]["state"]["name"], "새벽빵집", "{states}");
    eventually("search finds the other store under its new name", || async {
        (found(&services, "새벽빵").await == json!(["free"])).then_some(())
    })
    .await;
    let recorded = "DO $$ BEGIN IF EXISTS (SELECT FROM nudge_change_log \
                    WHERE id = 'free' AND version <> published_version) THEN RAISE 'pending'; END IF; END $$";
    eventually("the relay has recorded what it published", || async {
        database::try_execute(database.url(), recorded).await.ok()
    })
    .await;
    assert_eq!(answered.load(SeqCst), 0, "all of that came while the writers waited");

    sqlx::raw_sql("COMMIT").execute(&mut somebody).await.expect("the lock is let go");
    while let Some(answer) = writes.join_next().await {
        assert_eq!(answer.expect("no panic").status(), 200);
    }
    let answer = get("/stores/locked").await.expect("an answer");
    let store: Value = answer.json().await.expect("JSON");
    let name = store["name"].as_str().expect("a name").to_owned();
    eventually("search finds it under its last name", || async {
        let request = services.http.get(services.search("/stores")).query(&[("limit", "10")]);
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        answer["items"].as_array()?.iter().find(|item| item["name"] == name).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_a_lock_too_long_is_told_to_come_again() {
    let nats = Nats::start().await;
    let (services, mut somebody) = with_a_locked_store(&nats).await;
    let url = services.store_info("/stores/locked");
    let refused = put(services.http.clone(), url.clone(), "햇살국수".into()).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["Retry-After"], "1");
    let problem: Value = refused.json().await.expect("JSON");
    assert_eq!(problem["detail"], "the database is not available", "{problem}");
    eventually("it waits no more", || async {
        (waiting(services.store_info_database()).await == 0).then_some(())
    })
    .await;
    sqlx::raw_sql("COMMIT").execute(&mut somebody).await.expect("the lock is let go");
    assert_eq!(put(services.http.clone(), url, "햇살국수".into()).await.status(), 200);
}
