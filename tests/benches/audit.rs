//! How long it takes until what no message tells of is found and repaired, with default settings, while the owner
//! goes on writing; and before that, how fast an empty subscriber fills.
//!
//! `ROWS=1000000 cargo bench -p nudge-tests --bench audit`, with `NUDGE_TEST_DATABASE=postgres` for PostgreSQL. Versions
//! are altered in 1,000 rows; with `CONTENTS=1`, contents in 1,000 others, which takes as long as a pass over all of them:
//! with `SECONDS=600`, only so long, which says how long a pass takes.
//!
//! With `AUDITS=1000`, everything is instead compared so often, one comparison after the other, while the owner takes
//! 2,000 writes a second: none may report a difference that is none, and each that is planted must be found by the next.

use std::{
    collections::BTreeSet,
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use nudge_runtime::{Database, database::Kind};
use nudge_subscriber_kit::{ResyncSettings, Settings};
use nudge_tests::{Copy, Nats, Owner, owner::ENTITY};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::time::sleep;

/// Rows that are altered behind the read model's back.
const PLANTED: usize = 1_000;
/// Pause between two looks at what is repaired.
const LOOK: Duration = Duration::from_millis(200);
/// Pause between two edits of the owner's.
const EDIT: Duration = Duration::from_millis(50);
/// Writes a second during `AUDITS`, in transactions of 100.
const WRITES: usize = 2_000;
/// Comparisons from one planted difference to the next.
const AUDITS_PER_PLANTED: u64 = 50;
/// An ID, from a number: in order of numbers, IDs jump about.
const ID: &str = "'store-' || (1000000 + (n * 7919) % 10000019)";

#[tokio::main]
async fn main() {
    let rows: usize = env::var("ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start_silent().await;
    println!("{:?}, {rows} entities", owner.db.kind());
    fill(&owner.db, rows).await;
    let began = Instant::now();
    owner.second_relay(&broker);
    let unpublished = "SELECT count(*) FROM nudge_change_log WHERE published_seq = 0";
    while count(&owner.db, unpublished).await > 0 {
        sleep(LOOK * 5).await;
    }
    let per_second = rows as f64 / began.elapsed().as_secs_f64();
    println!("  published: {per_second:.0} entities/s");
    let audits: u64 = env::var("AUDITS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut resync = ResyncSettings::default();
    if audits > 0 {
        (resync.interval, resync.owner_percent) = (Duration::ZERO, 100);
    }
    let settings = Settings { resync, ..Settings::default() };
    let before = memory();
    let began = Instant::now();
    let copy = Copy::start_with(&broker, &owner, settings).await;
    while count(&copy.db, "SELECT count(*) FROM copy").await < rows as i64 {
        sleep(LOOK).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "  an empty subscriber filled in {seconds:.0} s: {:.0} entities/s; {} of memory, the owner's included ({} before)",
        rows as f64 / seconds,
        memory(),
        before
    );
    if audits > 0 {
        return audited(&owner, &copy, rows, audits).await;
    }
    let edits = async {
        for n in 0.. {
            owner.put(&format!("edited-{}", n % 1_000), json!({"name": n})).await;
            sleep(EDIT).await;
        }
    };
    let figures = async {
        swept(&copy, 1).await;
        // By the whole key: without the entity, each would read all rows.
        let of = format!("entity = '{ENTITY}'");
        let version =
            format!("UPDATE nudge_applied SET version = version - 1 WHERE {of} AND id = '{{id}}'");
        let altered = format!("SELECT id FROM nudge_applied WHERE {of} AND version % 2 = 1");
        planted(&copy, rows, 1, &version, &altered).await;
        if env::var("CONTENTS").is_ok() {
            let contents = "UPDATE copy SET body = '{}' WHERE id = '{id}'";
            planted(&copy, rows, 2, contents, "SELECT id FROM copy WHERE body = '{}'").await;
        }
    };
    tokio::select! {
        () = edits => {}
        () = figures => {}
    }
}

/// The ID of one of the rows, by its number.
fn id(n: usize) -> String {
    format!("store-{}", 1_000_000 + n * 7919 % 10_000_019)
}

/// Compares everything so often while the owner goes on writing, and prints what was found.
async fn audited(owner: &Owner, copy: &Copy, rows: usize, audits: u64) {
    let (began, written) = (Instant::now(), AtomicU64::new(0));
    let pause = Duration::from_secs(1) / (WRITES / 100) as u32;
    let writes = async {
        let mut ticks = tokio::time::interval(pause);
        for n in 0_usize.. {
            ticks.tick().await;
            let ids: Vec<_> = (0..100).map(|k| id((n * 100 + k) * 104_729 % rows)).collect();
            let things: Vec<_> = ids.iter().map(|id| (&**id, json!({ "name": n }))).collect();
            owner.put_all(&things).await;
            written.fetch_add(100, Relaxed);
        }
    };
    let first = copy.metric("nudge_resync_sweeps_total").await;
    let figures = async {
        let (mut planted, mut missed) = (0, 0);
        loop {
            let done = copy.metric("nudge_resync_sweeps_total").await - first;
            if done >= audits {
                return (done, planted, missed);
            }
            if done / AUDITS_PER_PLANTED > planted {
                planted += 1;
                let lost = format!("lost-{planted}");
                owner.put(&lost, json!({"name": "lost"})).await;
                let is_here = format!("SELECT count(*) FROM copy WHERE id = '{lost}'");
                while count(&copy.db, &is_here).await == 0 {
                    sleep(LOOK).await;
                }
                // Settled, so that it is not in flight any more.
                sleep(Duration::from_secs(2)).await;
                let sql = format!(
                    "UPDATE nudge_applied SET version = version - 1 WHERE entity = '{ENTITY}' AND id = '{lost}'"
                );
                let before = copy.metric("nudge_resync_sweeps_total").await;
                copy.db.write(sqlx::query(AssertSqlSafe(sql))).await.expect("it is altered");
                let found = differences(copy).await;
                // The one under way may have passed it already.
                swept(copy, before + 2).await;
                missed += u64::from(differences(copy).await == found);
            }
            sleep(LOOK).await;
        }
    };
    let (done, planted, missed) = tokio::select! {
        () = writes => return,
        figures = figures => figures,
    };
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "  {done} comparisons of {rows} in {seconds:.0} s, {:.0} writes/s: {} differences reported, {planted} planted, \
         {missed} of them not found by the next comparison",
        written.load(Relaxed) as f64 / seconds,
        differences(copy).await
    );
}

/// All differences reported so far.
async fn differences(copy: &Copy) -> u64 {
    let text = reqwest::get(copy.admin("../../metrics")).await.expect("an answer");
    let text = text.text().await.expect("a text");
    let series = text.lines().filter(|line| line.starts_with("nudge_resync_differences_total"));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Alters some rows, and prints how long it takes until they are as before, or how many are after `SECONDS`.
async fn planted(copy: &Copy, rows: usize, offset: usize, alter: &str, altered: &str) {
    let step = rows / PLANTED;
    let numbers = (0..PLANTED).map(|n| n * step + offset);
    let ids: Vec<_> = numbers.map(id).collect();
    let mut tx = copy.db.begin().await.expect("a transaction");
    for id in &ids {
        let sql = alter.replace("{id}", id);
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await.expect("it is altered");
    }
    tx.commit().await.expect("all are altered");
    let (began, mut after) = (Instant::now(), Vec::new());
    let mut left: BTreeSet<String> = ids.into_iter().collect();
    let most = env::var("SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(f64::MAX);
    while !left.is_empty() {
        sleep(LOOK).await;
        if began.elapsed().as_secs_f64() > most {
            println!("  {} of {PLANTED} found and repaired within {most:.0} s", after.len());
            return;
        }
        let list = serde_json::to_string(&left).expect("JSON");
        let of = nudge_runtime::set_sql::strings(copy.db.kind(), "$1");
        let sql = format!("{altered} AND id IN {of}");
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(list);
        let still: Vec<(String,)> = query.fetch_all(copy.db.reader()).await.expect("rows");
        let still: BTreeSet<String> = still.into_iter().map(|(id,)| id).collect();
        let repaired = left.len() - still.len();
        after.extend(std::iter::repeat_n(began.elapsed().as_secs_f64(), repaired));
        left = still;
    }
    let at = |share: f64| after[((after.len() - 1) as f64 * share) as usize];
    println!(
        "  {} altered: found and repaired after {:.1} s (p50), {:.1} s (p99), {:.1} s (all)",
        after.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// The most memory that this process has used, as Linux says.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or_else(|| "unknown".to_owned(), |peak| peak.trim().to_owned())
}

/// Waits until everything has been compared so often.
async fn swept(copy: &Copy, times: u64) {
    while copy.metric("nudge_resync_sweeps_total").await < times {
        sleep(LOOK).await;
    }
}

async fn count(db: &Database, sql: &str) -> i64 {
    let query = sqlx::query_as(AssertSqlSafe(sql.to_owned()));
    let (count,): (i64,) = query.fetch_one(db.reader()).await.expect("a count");
    count
}

/// What the owner has before its relay first runs. All versions are even.
async fn fill(db: &Database, rows: usize) {
    let numbers = match db.kind() {
        Kind::Sqlite => format!(
            "(WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {rows} - 1) SELECT n FROM n)"
        ),
        Kind::Postgres => format!("(SELECT n FROM generate_series(0, {rows}::bigint - 1) AS n)"),
    };
    let things =
        format!("INSERT INTO thing SELECT {ID}, '{{\"name\":\"thing\"}}' FROM {numbers} AS n");
    let log = format!(
        "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
         SELECT '{ENTITY}', {ID}, 1700000000000000 + 2 * n, 'created', 0, 0 FROM {numbers} AS n"
    );
    for sql in [things, log] {
        db.write(sqlx::query(AssertSqlSafe(sql))).await.expect("the rows are written");
    }
}
