//! One statement changes a hundred thousand rows, and a subscriber follows to the end.

use nudge_publisher::capture::Tables;
use nudge_runtime::Database;
use nudge_tests::{Copy, Nats, Owner, Wire, database, eventually};
use tokio_util::sync::CancellationToken;

const ROWS: i64 = 100_000;

async fn versions(db: &Database, sql: &'static str) -> Vec<(String, i64)> {
    sqlx::query_as(sql).fetch_all(db.reader()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_in_one_statement_are_followed_to_the_end() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let publisher = owner.publisher.clone().capture(&Tables::root("thing", "id")).await.unwrap();
    let insert = format!(
        "INSERT INTO thing WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS}) \
         SELECT 'thing-' || n, '\"before\"' FROM n"
    );
    database::execute(owner.database.url(), &insert).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;

    let began = std::time::Instant::now();
    database::execute(owner.database.url(), "UPDATE thing SET body = '\"after\"'").await;
    let written = began.elapsed();
    let stop = CancellationToken::new();
    let relay = publisher.spawn_relay(&nats.broker("things").await, stop.clone());
    // In parts, since a busy machine is slow.
    for rows in (1..=10).map(|part| ROWS / 10 * part) {
        eventually(&format!("{rows} rows are followed"), || async {
            let sql = "SELECT position FROM nudge_intake";
            let row: Option<(i64,)> =
                sqlx::query_as(sql).fetch_optional(copy.db.reader()).await.unwrap();
            (row?.0 >= rows).then_some(())
        })
        .await;
    }
    eventually("everything is marked, and the subscriber is at the end", || async {
        (publisher.health().pending == 0).then_some(())?;
        let status = copy.status().await;
        (status["stream_pending"] == 0 && status["queued"] == 0).then_some(())
    })
    .await;
    let sql = "SELECT position FROM nudge_intake";
    let (position,): (i64,) = sqlx::query_as(sql).fetch_one(copy.db.reader()).await.unwrap();
    assert_eq!(position.unsigned_abs(), Wire::open(&nats).await.last_sequence().await);
    println!(
        "figure | {:?} | {ROWS} rows in one statement | written in {:.2} s | followed after {:.2} s",
        owner.db.kind(),
        written.as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    let applied = versions(&copy.db, "SELECT id, version FROM nudge_applied ORDER BY id").await;
    assert_eq!(applied.len() as i64, ROWS);
    let published = "SELECT id, published_version FROM nudge_change_log ORDER BY id";
    assert!(applied == versions(&owner.db, published).await, "what was published is applied");
    let newest = "SELECT id, version FROM nudge_change_log ORDER BY id";
    assert!(applied == versions(&owner.db, newest).await, "and there is nothing newer");
    let sql = "SELECT count(*) FROM copy WHERE body = '\"after\"'";
    let (after,): (i64,) = sqlx::query_as(sql).fetch_one(copy.db.reader()).await.unwrap();
    assert_eq!(after, ROWS);
    copy.dead_letters(0).await;
    stop.cancel();
    relay.await.unwrap();
}
