//! Sixteen writers on a few shops, several shops in each transaction, in orders of their own; half of
//! their edits touch no row of the root, some are rolled back. Meanwhile callbacks read.
//!
//! Each writer notes, before it commits, the version and the state of each shop that it changed. A
//! callback must answer one of those pairs and nothing else: a torn state, or a version with the
//! state of another, has no pair. A counter beside the shops tells the order of commits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nudge_protocol::{Change, EntityId, sync_api::BatchGetAnswer};
use nudge_publisher::Owner;
use nudge_runtime::{
    BoxError, Tx,
    database::{Kind, is_retryable},
    serve,
};
use nudge_tests::{Nats, Random, database, id};
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use crate::support::Shops;

const WRITERS: u64 = 16;
const TRANSACTIONS: usize = 15;
const SHOPS: usize = 5;
/// Attempts of one transaction. It is the victim of a deadlock now and then, not always.
const MAX_ATTEMPTS: usize = 30;

/// A version of a shop, and what it was then.
type Pair = (String, i64);

#[derive(Default)]
struct Seen {
    /// What was committed.
    states: HashMap<Pair, String>,
    /// Of each shop, (place in the order of commits, version).
    order: HashMap<String, Vec<(i64, i64)>>,
    retries: usize,
    rolled_back: usize,
}

/// What a subscriber is told of a shop: its name, and its menus, which add up to nothing.
async fn state(tx: &mut Tx, key: &str) -> Result<Option<String>, sqlx::Error> {
    let sql = "SELECT name FROM shop WHERE id = $1";
    let shop: Option<(String,)> =
        sqlx::query_as(sql).bind(key.to_owned()).fetch_optional(&mut **tx).await?;
    let sql = "SELECT position, name FROM menu WHERE shop_id = $1 ORDER BY position";
    let menus: Vec<(i64, String)> =
        sqlx::query_as(sql).bind(key.to_owned()).fetch_all(&mut **tx).await?;
    Ok(shop.map(|(name,)| json!({"name": name, "menus": menus}).to_string()))
}

fn adds_up(state: &str) -> bool {
    let state: serde_json::Value = serde_json::from_str(state).unwrap();
    let menus = state["menus"].as_array().unwrap().iter();
    menus.map(|menu| menu[1].as_str().unwrap().parse::<i64>().unwrap()).sum::<i64>() == 0
}

struct Desk;

impl Owner for Desk {
    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let mut states = Vec::new();
        for id in ids {
            if let Some(state) = state(tx, id.as_str()).await? {
                states.push((id.clone(), RawValue::from_string(state)?));
            }
        }
        Ok(states)
    }
}

async fn run(tx: &mut Tx, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
}

/// Moves an amount from one menu to another, in two statements, sometimes with the name of the shop.
async fn edit(tx: &mut Tx, key: &str, amount: usize, name: bool) -> Result<(), sqlx::Error> {
    if name {
        run(tx, format!("UPDATE shop SET name = 'name {amount}' WHERE id = '{key}'")).await?;
    }
    for (position, change) in [(1, format!("+ {amount}")), (2, format!("- {amount}"))] {
        let value = format!("CAST(CAST(name AS BIGINT) {change} AS TEXT)");
        run(
            tx,
            format!(
                "UPDATE menu SET name = {value} WHERE shop_id = '{key}' AND position = {position}"
            ),
        )
        .await?;
    }
    Ok(())
}

struct Work {
    keys: Vec<String>,
    amount: usize,
    names: bool,
    roll_back: bool,
}

/// Does the work in one transaction. Returns, for each shop, its place, version and state.
async fn attempt(
    shops: &Shops,
    captured: bool,
    in_order: bool,
    work: &Work,
) -> Result<Vec<(String, i64, i64, String)>, sqlx::Error> {
    let mut tx = shops.publisher.begin().await?;
    let mut done = Vec::new();
    if in_order && shops.db.kind() == Kind::Postgres {
        let keys = format!("'{}'", work.keys.join("', '"));
        let lock = format!("SELECT id FROM shop WHERE id IN ({keys}) ORDER BY id FOR UPDATE");
        run(&mut tx, lock).await?;
    }
    for key in &work.keys {
        edit(&mut tx, key, work.amount, work.names).await?;
        let key_id = id(key);
        if !captured {
            shops.publisher.record(&mut tx, &key_id, Change::Updated).await?;
        }
        let recorded = shops.publisher.recorded(&mut tx, std::slice::from_ref(&key_id)).await?;
        let next = "UPDATE place SET n = n + 1 WHERE shop_id = $1 RETURNING n";
        let (place,): (i64,) = sqlx::query_as(next).bind(key.clone()).fetch_one(&mut *tx).await?;
        let state = state(&mut tx, key).await?.ok_or(sqlx::Error::RowNotFound)?;
        done.push((key.clone(), place, recorded[&key_id].version.to_i64(), state));
    }
    if work.roll_back {
        tx.rollback().await?;
        return Ok(Vec::new());
    }
    shops.publisher.commit(tx).await?;
    Ok(done)
}

/// How the writers of a test go about it.
#[derive(Clone, Copy, Debug)]
struct Ways {
    /// Triggers record the changes, not the writers.
    captured: bool,
    /// Everyone locks the root rows of its shops first, in the order of ids, so that nobody
    /// deadlocks. Else only those do who were the victim of a deadlock.
    in_order: bool,
}

async fn write(shops: Arc<Shops>, ways: Ways, seed: u64, seen: Arc<Mutex<Seen>>) {
    let mut random = Random(seed);
    for _ in 0..TRANSACTIONS {
        let mut keys: Vec<_> = (0..SHOPS).map(|n| format!("s{n}")).collect();
        random.shuffle(&mut keys);
        keys.truncate(1 + random.below(3));
        let (amount, names) = (1 + random.below(1_000), random.below(2) == 0);
        let work = Work { keys, amount, names, roll_back: random.below(5) == 0 };
        for attempts in 0.. {
            // Who was the victim of a deadlock behaves at the next attempt.
            let in_order = ways.in_order || attempts > 0;
            match attempt(&shops, ways.captured, in_order, &work).await {
                Ok(done) => {
                    let mut seen = seen.lock().unwrap();
                    seen.rolled_back += usize::from(done.is_empty());
                    for (key, place, version, state) in done {
                        seen.order.entry(key.clone()).or_default().push((place, version));
                        seen.states.insert((key, version), state);
                    }
                    break;
                }
                Err(error) => {
                    assert!(is_retryable(&error), "{error}");
                    assert!(attempts < MAX_ATTEMPTS, "never succeeds: {error}");
                    seen.lock().unwrap().retries += 1;
                    let pause = 1 + random.below(20 << attempts.min(6)) as u64;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }
}

/// Calls back until `stop`, and keeps what was answered.
async fn read(url: String, stop: CancellationToken) -> Vec<(Pair, String)> {
    let ids: Vec<_> = (0..SHOPS).map(|n| format!("s{n}")).collect();
    let http = reqwest::Client::new();
    let mut answers = Vec::new();
    while !stop.is_cancelled() {
        let request = http.post(&url).json(&json!({"ids": ids}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let answer: BatchGetAnswer = response.json().await.unwrap();
        for item in answer.items {
            let (version, state) = (item.version.unwrap(), item.state.unwrap());
            let pair = (item.id.to_string(), version.to_i64());
            answers.push((pair, state.get().to_owned()));
        }
    }
    answers
}

async fn prepared(captured: bool) -> Shops {
    let shops = if captured { Shops::new().await } else { Shops::unseen().await };
    shops.run("CREATE TABLE place (shop_id TEXT PRIMARY KEY, n BIGINT NOT NULL)").await;
    let mut tx = shops.publisher.begin().await.unwrap();
    for n in 0..SHOPS {
        run(&mut tx, format!("INSERT INTO shop VALUES ('s{n}', 'new', NULL)")).await.unwrap();
        run(&mut tx, format!("INSERT INTO menu VALUES ('s{n}', 1, '0'), ('s{n}', 2, '0')"))
            .await
            .unwrap();
        run(&mut tx, format!("INSERT INTO place VALUES ('s{n}', 0)")).await.unwrap();
        if !captured {
            let key = id(&format!("s{n}"));
            shops.publisher.record(&mut tx, &key, Change::Created).await.unwrap();
        }
    }
    shops.publisher.commit(tx).await.unwrap();
    shops
}

/// Returns how often a transaction had to be tried again.
async fn sixteen_writers(ways: Ways) -> usize {
    let nats = Nats::start().await;
    let shops = Arc::new(prepared(ways.captured).await);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tx = shops.db.begin().await.unwrap();
    for (key, (version, ..)) in shops.log().await {
        let state = state(&mut tx, &key).await.unwrap().unwrap();
        seen.lock().unwrap().states.insert((key, version), state);
    }
    tx.rollback().await.unwrap();

    let stop = CancellationToken::new();
    // It locks rows of the change log, too.
    let relay = shops.publisher.spawn_relay(&nats.broker("shops").await, stop.clone());
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}/sync/v1/shop/batch-get", listener.local_addr().unwrap());
    tokio::spawn(serve::serve(listener, shops.publisher.sync_api(Desk), stop.clone()));
    let reading = CancellationToken::new();
    let readers: Vec<_> =
        (0..2).map(|_| tokio::spawn(read(url.clone(), reading.clone()))).collect();
    let writers = (0..WRITERS).map(|n| tokio::spawn(write(shops.clone(), ways, n, seen.clone())));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    reading.cancel();
    let mut answers = Vec::new();
    for reader in readers {
        answers.extend(reader.await.unwrap());
    }
    stop.cancel();
    relay.await.unwrap();

    let seen = seen.lock().unwrap();
    for (key, order) in &seen.order {
        let mut order = order.clone();
        order.sort_unstable();
        for pair in order.windows(2) {
            assert!(pair[0].1 < pair[1].1, "{key}: versions follow the order of commits: {pair:?}");
        }
    }
    for (pair, state) in &answers {
        assert!(adds_up(state), "torn: {pair:?} {state}");
        assert_eq!(seen.states.get(pair), Some(state), "{pair:?}");
    }
    let versions: std::collections::HashSet<_> = answers.iter().map(|(pair, _)| pair).collect();
    assert!(versions.len() > SHOPS * 2, "callbacks met the writers: {}", versions.len());
    assert!(seen.rolled_back > 0 && seen.states.len() > WRITERS as usize * TRANSACTIONS / 2);
    println!(
        "figure | {:?} | {ways:?} | {} committed versions | {} callbacks' answers | {} retries",
        database::kind(),
        seen.states.len(),
        answers.len(),
        seen.retries
    );
    seen.retries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_rise_in_commit_order_and_callbacks_answer_one_snapshot_when_recorded() {
    sixteen_writers(Ways { captured: false, in_order: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_rise_in_commit_order_and_callbacks_answer_one_snapshot_when_captured() {
    sixteen_writers(Ways { captured: true, in_order: false }).await;
}

/// Whoever takes shops in one order never meets a deadlock: neither the triggers nor the relay bring
/// in an order of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_who_keep_to_one_order_never_have_to_try_again() {
    for captured in [true, false] {
        assert_eq!(sixteen_writers(Ways { captured, in_order: true }).await, 0);
    }
}
