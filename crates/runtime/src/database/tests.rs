use std::time::Duration;

use super::*;

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "things",
    sqlite: "CREATE TABLE thing (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
    postgres: "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY, n BIGINT NOT NULL)",
}];

#[tokio::test]
async fn a_file_is_created_migrated_twice_and_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("a.db").display());
    for expected in 1..=2 {
        let db = Database::open(&url, Durability::Full).await.unwrap();
        db.migrate("test", MIGRATIONS).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let insert = "INSERT INTO thing VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = thing.n + 1 RETURNING n";
        let (n,): (i64,) = sqlx::query_as(insert).bind("a").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(n, expected);
        tx.commit().await.unwrap();
        db.close().await;
    }
}

#[tokio::test]
async fn a_file_in_another_encoding_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("a.db").display());
    {
        use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
        let options: SqliteConnectOptions = url.parse().unwrap();
        let mut connection = options.create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (id TEXT)")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
    let error = Database::open(&url, Durability::Full).await.unwrap_err().to_string();
    assert!(error.contains("stores text as UTF-16le"), "{error}");
}

#[tokio::test]
async fn a_url_of_another_database_is_refused_by_name() {
    let error = Database::open("mysql://x", Durability::Full).await.unwrap_err();
    assert!(error.to_string().contains("DATABASE_URL"));
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
    db.migrate("test", MIGRATIONS).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO thing VALUES ('a', 1)").execute(&mut *tx).await.unwrap();
    drop(tx);
    let (n,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM thing").fetch_one(db.reader()).await.unwrap();
    assert_eq!(n, 0);
}

/// As on an I/O error, which is harder to come by: `OR ROLLBACK` ends the transaction just so.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_by_itself_stands_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("a.db").display());
    let db = Database::open(&url, Durability::Full).await.unwrap();
    db.migrate("test", MIGRATIONS).await.unwrap();
    let insert = "INSERT OR ROLLBACK INTO thing VALUES ('a', 1)";
    db.write(sqlx::query(insert)).await.unwrap();
    for _ in 0..3 {
        db.write(sqlx::query(insert)).await.unwrap_err();
        let update = "UPDATE thing SET n = n + 1";
        assert_eq!(db.write(sqlx::query(update)).await.unwrap(), 1);
    }
}

/// A session that does not write stands for each that is as it should not be.
#[tokio::test]
async fn a_connection_that_has_gone_bad_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("a.db").display());
    let db = Database::open(&url, Durability::Full).await.unwrap();
    db.migrate("test", MIGRATIONS).await.unwrap();
    let go_bad = async || {
        let mut connection = db.writer.acquire().await.unwrap();
        sqlx::query("PRAGMA query_only = 1").execute(&mut *connection).await.unwrap();
    };
    let insert = || sqlx::query("INSERT INTO thing VALUES ('a', 1) ON CONFLICT DO NOTHING");
    go_bad().await;
    assert!(is_retryable(&db.write(insert()).await.unwrap_err()));
    assert_eq!(db.write(insert()).await.unwrap(), 1);
    // Right after that, too.
    go_bad().await;
    assert_eq!(db.run_afresh(|| db.write(insert())).await.unwrap(), 0);
}

#[tokio::test]
async fn a_database_in_memory_outlives_a_connection_in_doubt() {
    let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
    db.migrate("test", MIGRATIONS).await.unwrap();
    db.write(sqlx::query("INSERT INTO thing VALUES ('a', 1)")).await.unwrap();
    let failed: Result<(), _> = db.run(async { Err(sqlx::Error::WorkerCrashed) }).await;
    failed.unwrap_err();
    let count = sqlx::query_as("SELECT count(*) FROM thing").fetch_one(db.reader());
    let (count,): (i64,) = db.run(count).await.unwrap();
    assert_eq!(count, 1);
}

/// Each is told at once, with what can be done about it.
#[tokio::test]
async fn a_damaged_file_is_told_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let url = format!("sqlite:{}", path.display());
    let db = Database::open(&url, Durability::Full).await.unwrap();
    db.migrate("test", MIGRATIONS).await.unwrap();
    let fill = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) \
                INSERT INTO thing SELECT 'row ' || n, n FROM n";
    db.write(sqlx::query(fill)).await.unwrap();
    db.close().await;
    let whole = std::fs::read(&path).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    let uneven = whole[..whole.len() / 2 + 1_000].to_vec();
    let garbage = vec![7; whole.len()];
    for bytes in [half, uneven, garbage, b"no database at all".repeat(100)] {
        std::fs::write(&path, &bytes).unwrap();
        for (durability, remedy) in
            [(Durability::Full, "backup"), (Durability::Refillable, "safe to delete it")]
        {
            let opening =
                async { Database::open(&url, durability).await?.migrate("test", MIGRATIONS).await };
            let opened = tokio::time::timeout(Duration::from_secs(10), opening).await;
            let error = opened.expect("it is told at once").unwrap_err();
            let line = crate::problem::chain(&error);
            let named = format!("DATABASE_URL: {} is damaged; ", path.display());
            assert!(line.starts_with(&named) && line.contains(remedy), "{line}");
        }
    }
}

/// What the simulation of a service's real SQL stands on: with the clock paused and the driver
/// stepped, database work takes no virtual time at all, however long it really takes.
#[tokio::test(start_paused = true)]
async fn stepped_work_takes_no_virtual_time() {
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let helper = std::thread::spawn(build).join().unwrap();
    let opened = Database::open("sqlite::memory:", Durability::Refillable);
    let opened = std::thread::scope(|s| s.spawn(|| helper.block_on(opened)).join().unwrap());
    let db =
        opened.unwrap().with_driver(Driver::Stepped(std::sync::Arc::new(helper.handle().clone())));
    db.migrate("test", MIGRATIONS).await.unwrap();
    let start = tokio::time::Instant::now();
    for n in 0..50 {
        let work = async {
            let mut tx = db.begin().await?;
            let insert = sqlx::query("INSERT INTO thing VALUES ($1, 1)").bind(n.to_string());
            insert.execute(&mut *tx).await?;
            tx.commit().await
        };
        db.run(work).await.unwrap();
    }
    let count = async {
        let count = "SELECT count(*) FROM thing";
        sqlx::query_as::<_, (i64,)>(count).fetch_one(db.reader()).await
    };
    assert_eq!(db.run(count).await.unwrap(), (50i64,));
    assert_eq!(start.elapsed(), Duration::ZERO);
    helper.shutdown_background();
}
