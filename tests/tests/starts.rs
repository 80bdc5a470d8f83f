//! Replicas of a service start at the same moment, on a new database.

use clap::Parser;
use nudge_runtime::database::Migration;
use nudge_tests::{Nats, TestDatabase, eventually};
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// They interleave in another way each time.
const ROUNDS: usize = 4;

fn arguments(program: &str, nats: &Nats, database: &TestDatabase) -> Vec<String> {
    let (nats, database) = (nats.url(), database.url());
    let told = [program, "--bind", "127.0.0.1:0", "--nats-url", &nats, "--database-url", database];
    told.map(str::to_owned).into()
}

async fn ready(http: &Client, urls: &[String]) {
    for url in urls {
        eventually(&format!("{url} is ready"), || async {
            let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }
}

/// A rollback, or a replica of the older release that is restarted during a rolling deploy.
#[tokio::test]
async fn an_older_release_starts_on_the_tables_of_a_newer_one() {
    const OLDER: &[Migration] = &[Migration {
        number: 1,
        title: "things",
        sqlite: "CREATE TABLE old_thing (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
        postgres: "CREATE TABLE old_thing (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
    }];
    const NEWER: &[Migration] = &[
        OLDER[0],
        Migration {
            number: 2,
            title: "a column",
            sqlite: "ALTER TABLE old_thing ADD COLUMN name TEXT",
            postgres: "ALTER TABLE old_thing ADD COLUMN name TEXT",
        },
    ];
    let database = TestDatabase::new().await;
    for release in [OLDER, NEWER, OLDER, NEWER] {
        let db = database.open().await;
        db.migrate("things", release).await.expect("it starts");
        let insert =
            "INSERT INTO old_thing (id, n) VALUES ('a', 1) ON CONFLICT (id) DO UPDATE SET n = 2";
        db.write(sqlx::query(insert)).await.expect("it writes");
        db.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_together_on_an_empty_database_all_get_ready() {
    let http = nudge_runtime::tls::http().build().unwrap();
    for round in 0..ROUNDS {
        let (nats, stop) = (Nats::start().await, CancellationToken::new());
        let (owners, models) = (TestDatabase::new().await, TestDatabase::new().await);
        let mut args = arguments("store-info", &nats, &owners);
        args.push("--sample".into());
        let args = store_info::Args::parse_from(args);
        let start = || store_info::start(&args, stop.clone());
        let (first, second, third) = tokio::join!(start(), start(), start());
        let started = [first, second, third].map(|started| started.expect("store-info starts"));
        let owners = started.each_ref().map(|owner| format!("http://{}", owner.address()));
        ready(&http, &owners).await;

        let mut args = arguments("search", &nats, &models);
        args.extend(["--store-owner-url".into(), owners[0].clone()]);
        let start = || search::service().start(args.clone(), stop.clone());
        let (first, second) = tokio::join!(start(), start());
        let searches = [first, second].map(|started| started.expect("search starts"));
        let searches = searches.each_ref().map(|search| format!("http://{}", search.address));
        ready(&http, &searches).await;

        // Each accepts a write, and each shows all of them.
        for (n, url) in owners.iter().enumerate() {
            let put = http.put(format!("{url}/stores/new-{n}"));
            let put = put.json(&json!({"name": "달빛국수", "category": format!("of {round}")}));
            assert_eq!(put.send().await.unwrap().status(), 201);
        }
        for url in &searches {
            eventually("search finds all of them", || async {
                let list = http.get(format!("{url}/stores"));
                let list = list.query(&[("category", format!("of {round}"))]);
                let answer: Value = list.send().await.ok()?.json().await.ok()?;
                (answer["ids"] == json!(["new-0", "new-1", "new-2"])).then_some(())
            })
            .await;
        }
        stop.cancel();
        for owner in started {
            owner.stopped().await;
        }
    }
}

/// Its stream has stores that it no longer knows, and its subscribers still show them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_database_was_lost_says_so_and_loads_no_sample() {
    let (nats, database) = (Nats::start().await, TestDatabase::new().await);
    let mut args = arguments("store-info", &nats, &database);
    args.push("--sample".into());
    let args = store_info::Args::parse_from(args);
    let stop = CancellationToken::new();
    let owner = store_info::start(&args, stop.clone()).await.expect("store-info starts");
    let address = format!("http://{}", owner.address());
    let before = stores(&address).await;
    assert!(before > 40, "the samples are loaded: {before}");
    for n in 0..3 {
        put(&address, &format!("of-their-own-{n}")).await;
    }
    let all = before + 3;
    // The number of pending rows is also 0 before it was first determined.
    eventually("all of them are published", || async {
        (metric(&address, "nudge_relay_published_total").await? >= all).then_some(())
    })
    .await;
    assert_eq!(metric(&address, "nudge_relay_strangers").await, Some(0));
    stop.cancel();
    owner.stopped().await;
    database.lose().await;

    let stop = CancellationToken::new();
    let owner = store_info::start(&args, stop.clone()).await.expect("store-info starts");
    let address = format!("http://{}", owner.address());
    assert_eq!(stores(&address).await, 0, "no sample stands in for what was lost");
    let said = async |strangers| {
        eventually("it is said", || async {
            (metric(&address, "nudge_relay_strangers").await? == strangers).then_some(())
        })
        .await;
    };
    said(all).await;
    // A store that comes back is known again.
    put(&address, "of-their-own-0").await;
    said(all - 1).await;
    stop.cancel();
    owner.stopped().await;
}

async fn put(address: &str, id: &str) {
    let put = Client::new().put(format!("{address}/stores/{id}"));
    let put = put.json(&json!({"name": "달빛국수"})).send().await.unwrap();
    assert_eq!(put.status(), 201);
}

/// Number of stores that the owner lists, up to a hundred.
async fn stores(address: &str) -> u64 {
    let list = Client::new().get(format!("{address}/stores?limit=100")).send().await.unwrap();
    let list: Value = list.json().await.unwrap();
    list["items"].as_array().expect("stores").len() as u64
}

/// A metric of the owner's only entity.
async fn metric(address: &str, name: &str) -> Option<u64> {
    let text = Client::new().get(format!("{address}/metrics")).send().await.ok()?;
    let text = text.text().await.ok()?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// On PostgreSQL, where each session waits for a lock for only a few seconds.
mod once {
    use nudge_runtime::database::{Kind, LOCK_TIMEOUT};
    use sqlx::{AnyConnection, AssertSqlSafe, Connection};

    use super::*;

    /// A start that migrates much, or records every entity for new triggers, takes long. Its replicas wait for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_start_waits_for_another_however_long_that_takes() {
        let nats = Nats::start().await;
        // The table that migrations read, and the lock with which one program at a time installs triggers.
        for held in [
            "LOCK TABLE nudge_migrations_publisher IN ACCESS EXCLUSIVE MODE",
            "SELECT pg_advisory_xact_lock(5210372)",
        ] {
            let (database, stop) =
                (TestDatabase::of(Kind::Postgres).await, CancellationToken::new());
            let args = store_info::Args::parse_from(arguments("store-info", &nats, &database));
            let first = store_info::start(&args, stop.clone()).await.expect("store-info starts");
            let mut other = AnyConnection::connect(database.url()).await.unwrap();
            let begin = AssertSqlSafe(format!("BEGIN; {held}"));
            sqlx::raw_sql(begin).execute(&mut other).await.unwrap();
            let until = stop.clone();
            let second = tokio::spawn(async move { store_info::start(&args, until).await });
            tokio::time::sleep(LOCK_TIMEOUT * 6 / 5).await;
            assert!(!second.is_finished(), "it waits: {held}");
            sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
            let second = second.await.unwrap().expect("store-info starts");
            stop.cancel();
            first.stopped().await;
            second.stopped().await;
        }
    }
}
