//! A read model with a new column fills it for every row, while it and an older release keep running.

use std::{collections::BTreeMap, time::Duration};

use nudge_runtime::Database;
use nudge_subscriber_kit::{Apply, Mirror, Settings, Subscriber, testing};
use nudge_tests::{Nats, Owner, QUIET, TestDatabase, copy::quick, eventually, owner::ENTITY};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// More than the number of keys that are read again at a time.
const THINGS: usize = 600;

#[derive(Serialize, Deserialize)]
struct Older {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Newer {
    name: String,
    region: String,
}

struct Replica {
    subscriber: Subscriber,
    stop: CancellationToken,
}

impl Replica {
    async fn start<A: Apply>(nats: &Nats, owner: &Owner, db: &Database, handler: A) -> Self {
        nudge_tests::logs();
        let stop = CancellationToken::new();
        let every = Duration::from_millis(100);
        let settings = Settings { revision_check_interval: every, ..quick() };
        let subscriber = Subscriber::builder("mirrors", db, &nats.broker("mirrors").await)
            .follow(ENTITY, &owner.url(), handler)
            .settings(settings)
            .start(stop.clone())
            .await
            .unwrap();
        Self { subscriber, stop }
    }

    async fn refilled(&self) -> u64 {
        let answer = testing::get(self.subscriber.router(), "/metrics").await.body;
        let series = format!("nudge_refilled_total{{entity=\"{ENTITY}\"}} ");
        let line = answer.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap().parse().unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.subscriber.stopped().await;
    }
}

async fn versions(db: &Database) -> BTreeMap<String, i64> {
    let query = sqlx::query_as("SELECT id, version FROM nudge_applied");
    let rows: Vec<(String, i64)> = query.fetch_all(db.reader()).await.unwrap();
    rows.into_iter().collect()
}

async fn regions(db: &Database) -> BTreeMap<String, String> {
    let query = sqlx::query_as("SELECT id, region FROM mirrored");
    let rows: Vec<(String, String)> = query.fetch_all(db.reader()).await.unwrap_or_default();
    rows.into_iter().collect()
}

async fn filled(db: &Database, expected: &BTreeMap<String, String>) {
    eventually("every row has the new column's value", || async {
        (&regions(db).await == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_column_is_filled_for_every_row_beside_an_older_release() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let database = TestDatabase::new().await;
    let (older_db, newer_db) = (database.open().await, database.open().await);
    let ids: Vec<_> = (0..THINGS).map(|n| format!("t{n}")).collect();
    let state = |n: usize, region: &str| json!({"name": n.to_string(), "region": region});
    let things: Vec<_> = ids.iter().enumerate().map(|(n, id)| (&**id, state(n, "성수"))).collect();
    owner.put_all(&things).await;
    owner.delete("t0").await;

    let older = Mirror::<Older>::table("mirrored");
    let older = Replica::start(&nats, &owner, &older_db, older).await;
    eventually("the older release has all, and has recorded that", || async {
        let row = sqlx::query_as("SELECT position FROM nudge_intake");
        let (position,): (i64,) = row.fetch_one(older_db.reader()).await.ok()?;
        // One message for each, and one for the deletion, unless the relay saw only that.
        let all = versions(&older_db).await.len() == THINGS && position >= THINGS as i64;
        let (last,): (i64,) = sqlx::query_as("SELECT max(published_seq) FROM nudge_change_log")
            .fetch_one(owner.db.reader())
            .await
            .ok()?;
        (all && position == last).then_some(())
    })
    .await;
    let before = versions(&older_db).await;

    let newer = Mirror::<Newer>::table("mirrored");
    let newer = Replica::start(&nats, &owner, &newer_db, newer).await;
    let mut expected: BTreeMap<_, _> =
        ids.iter().skip(1).map(|id| (id.clone(), "성수".to_owned())).collect();
    filled(&newer_db, &expected).await;
    assert_eq!(versions(&newer_db).await, before, "nothing had changed");
    assert_eq!(newer.refilled().await as usize, THINGS - 1);

    // The older release handles some of these, and does not write the column.
    for (n, id) in ids.iter().enumerate().take(60).skip(1) {
        owner.put(id, state(n, "연남")).await;
        expected.insert(id.clone(), "연남".to_owned());
    }
    filled(&newer_db, &expected).await;

    // Neither undoes what the other has read again.
    let settled = async || (owner.calls(), older.refilled().await, newer.refilled().await);
    eventually("nothing is left to read again", || async {
        let query = sqlx::query_as(
            "SELECT count(*) FROM nudge_applied WHERE deleted = 0 AND revised_version <> version",
        );
        let (left,): (i64,) = query.fetch_one(newer_db.reader()).await.ok()?;
        let forms = "SELECT count(DISTINCT revision) FROM nudge_applied WHERE deleted = 0";
        let (forms,): (i64,) = sqlx::query_as(forms).fetch_one(newer_db.reader()).await.ok()?;
        (left == 0 && forms == 1).then_some(())
    })
    .await;
    let quiet = settled().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(settled().await, quiet);
    assert_eq!(quiet.1, 0, "the older release reads nothing again");
    older.stop().await;
    newer.stop().await;
}

/// Rows that were read again once are not read again at each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_a_new_column_reads_nothing_again() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let database = TestDatabase::new().await;
    let db = database.open().await;
    owner.put("a", json!({"name": "a", "region": "성수"})).await;
    for _ in 0..3 {
        let mirror = Mirror::<Newer>::table("mirrored");
        let replica = Replica::start(&nats, &owner, &db, mirror).await;
        filled(&db, &BTreeMap::from([("a".to_owned(), "성수".to_owned())])).await;
        let looked = async || {
            let sql = "SELECT seen_at FROM nudge_revision";
            let row: Option<(i64,)> = sqlx::query_as(sql).fetch_optional(db.reader()).await.ok()?;
            row.map(|(seen,)| seen)
        };
        let first = eventually("it looks", &looked).await;
        eventually("it looks again", || async { (looked().await? > first).then_some(()) }).await;
        assert_eq!(replica.refilled().await, 0);
        replica.stop().await;
    }
}
