//! Rows of the change log with invalid IDs: SQLite stores whatever it is given.

use nudge_runtime::{Database, database::Kind};
use nudge_tests::{Nats, Owner, eventually};
use serde_json::json;

use crate::publisher::support::{Relay, messages, published};

/// More than the number of pending rows that are read at a time.
const MANY: u64 = 3_000;

/// Writes many rows with invalid IDs, newer and older than everything else.
async fn write_unreadable(db: &Database) -> u64 {
    let rows = |version: &str, id: &str| {
        format!(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
             WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < {MANY}) \
             SELECT 'thing', {id}, {version}, 'updated', 0, 0 FROM up"
        )
    };
    let newest = "9000000000000000 + n / 2000";
    let sql = match db.kind() {
        // EUC-KR, which is not UTF-8; arbitrary bytes.
        Kind::Sqlite => [
            rows(newest, "CAST(X'B0A1' || n AS TEXT)"),
            rows("1 + n / 2000", "CAST(X'B0A2' || n AS TEXT)"),
            rows("5", "CAST(X'B0A3' || n AS BLOB)"),
        ],
        Kind::Postgres => [
            rows(newest, "chr(1) || n"),
            rows("1 + n / 2000", "chr(2) || n"),
            rows("5", "chr(3) || n"),
        ],
    };
    for sql in sql {
        db.write(sqlx::query(sqlx::AssertSqlSafe(sql))).await.unwrap();
    }
    3 * MANY
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_whose_ids_are_none_are_taken_out_and_counted_and_hold_up_no_other() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let unreadable = write_unreadable(&owner.db).await;
    owner.put("before", json!({})).await;
    let relay = Relay::start(&owner.db, &nats.broker("things").await).await;
    eventually("all of them are taken out", || async {
        (relay.publisher.health().unreadable == unreadable).then_some(())
    })
    .await;
    owner.put("after", json!({})).await;
    published(&owner.db).await;
    let shown: Vec<_> = messages(&nats).await.iter().map(|one| one.id()).collect();
    assert_eq!(shown, ["before", "after"]);
    assert!(relay.publisher.health().connected);
}
