//! Many writers change a few shops, several shops per transaction and in different orders; half of their edits do not
//! touch the root table, and some are rolled back. At the same time, callbacks read and a relay publishes.
//!
//! Before it commits, each writer notes the version and the state of each shop that it changed. A callback must answer
//! with one of these pairs: a torn state, or a version with another version's state, is not among them. A counter
//! beside the shops shows the order of commits.
//!
//! Each writer has its own connections, as replicas have, so that only the database makes them take turns.
//!
//! | module | what it contains |
//! |---|---|
//! | `edits` | what a writer does, and what a callback returns |
//! | `once` | the same on PostgreSQL: without deadlocks, and with a stricter default isolation level than needed |

mod edits;
mod once;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use nudge_protocol::{Change, notification::VERSION_HEADER, subject, sync_api::BatchGetAnswer};
use nudge_publisher::Recording;
use nudge_runtime::{
    database::{Kind, is_retryable},
    serve,
};
use nudge_tests::{Nats, Random, TestDatabase, database, eventually, id};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::edits::{Desk, Work, adds_up, attempt, run, state};
use crate::capture::support::{Shops, tables};

const TRANSACTIONS: usize = 15;
const SHOPS: usize = 5;
/// Number of attempts of one transaction at which a test fails. Whenever the database aborts one of several
/// transactions that block one another, another one succeeds; which one it aborts is a matter of chance. The maximum in
/// some twenty runs of 240 transactions each was 8.
const MAX_ATTEMPTS: usize = 25;

/// A version of a shop, and its state at that version.
type Pair = (String, i64);

#[derive(Default)]
struct Seen {
    /// The pairs that were committed.
    states: HashMap<Pair, String>,
    /// For each shop: (place in the order of commits, version).
    order: HashMap<String, Vec<(i64, i64)>>,
    attempts: Attempts,
    rolled_back: usize,
}

/// How often transactions had to be retried.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    /// Number of attempts beyond the first, of all transactions together.
    again: usize,
    /// Maximum number of attempts of one transaction.
    most: usize,
    /// How many attempts the database aborted because of other transactions: deadlocks and serialization failures. What
    /// only waited longer for a lock than its limit, as anybody may on a busy machine, is not among them.
    aborted: usize,
}

impl Attempts {
    fn note(&mut self, aborted: bool) {
        self.again += 1;
        self.aborted += usize::from(aborted);
    }
}

/// How the writers of a test behave.
#[derive(Clone, Copy, Debug)]
struct Ways {
    /// Number of writers.
    writers: u64,
    /// Whether triggers record the changes instead of the writers.
    captured: bool,
    /// Whether every writer first locks the root rows of its shops, ordered by ID, so that there are no deadlocks.
    /// Otherwise only victims of a deadlock do.
    in_order: bool,
    /// The default isolation level, on PostgreSQL. `None` is the kind of database under test, with its own default.
    isolation: Option<&'static str>,
}

async fn write(
    shops: Shops<Recording>,
    wake: impl Fn(),
    ways: Ways,
    seed: u64,
    seen: Arc<Mutex<Seen>>,
) {
    let mut random = Random::new(seed);
    for _ in 0..TRANSACTIONS {
        let mut keys: Vec<_> = (0..SHOPS).map(|n| format!("s{n}")).collect();
        random.shuffle(&mut keys);
        keys.truncate(1 + random.index(3));
        let (amount, names) = (1 + random.below(1_000), random.below(2) == 0);
        let work = Work { keys, amount, names, roll_back: random.below(5) == 0 };
        for attempts in 1.. {
            // The victim of a deadlock locks in order at the next attempt.
            let in_order = ways.in_order || attempts > 1;
            match attempt(&shops, ways.captured, in_order, &work).await {
                Ok(done) => {
                    wake();
                    let mut seen = seen.lock();
                    seen.attempts.most = seen.attempts.most.max(attempts);
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
                    let code = error.as_database_error().and_then(|error| error.code());
                    let aborted =
                        code.is_some_and(|code| code.len() == 5 && code.starts_with("40"));
                    seen.lock().attempts.note(aborted);
                    let pause = 1 + random.below(20 << attempts.min(6));
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }
}

/// Makes callbacks until `stop`, and returns the answers.
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

/// Sets the default isolation level of transactions.
async fn isolate(database: &TestDatabase, level: &str) {
    let name = database.url().rsplit('/').next().unwrap();
    let set = format!("ALTER DATABASE {name} SET default_transaction_isolation = '{level}'");
    database::execute(database.url(), &set).await;
}

async fn prepared(ways: Ways) -> Shops<Recording> {
    let database = match ways.isolation {
        None => TestDatabase::new().await,
        Some(level) => {
            let database = TestDatabase::of(Kind::Postgres).await;
            isolate(&database, level).await;
            database
        }
    };
    let shops = Shops::unseen_on(database).await;
    if ways.captured {
        shops.capture(&tables()).await.unwrap();
    }
    shops.run("CREATE TABLE place (shop_id TEXT PRIMARY KEY, n BIGINT NOT NULL)").await;
    let mut tx = shops.publisher.begin().await.unwrap();
    for n in 0..SHOPS {
        run(&mut tx, format!("INSERT INTO shop VALUES ('s{n}', 'new', NULL)")).await.unwrap();
        run(&mut tx, format!("INSERT INTO menu VALUES ('s{n}', 1, '0'), ('s{n}', 2, '0')"))
            .await
            .unwrap();
        run(&mut tx, format!("INSERT INTO place VALUES ('s{n}', 0)")).await.unwrap();
        if !ways.captured {
            let key = id(&format!("s{n}"));
            shops.publisher.record(&mut tx, &key, Change::Created).await.unwrap();
        }
    }
    shops.publisher.commit(tx).await.unwrap();
    shops
}

/// Waits until the stream holds each shop in its newest version, and everything is marked.
async fn shown(nats: &Nats, shops: &Shops<Recording>) {
    let entity = shops.publisher.entity();
    let jetstream = nats.jetstream().await;
    eventually("the stream shows the newest version of each shop", || async {
        let stream = jetstream.get_stream(subject::stream_name(entity)).await.ok()?;
        let sql = "SELECT id, version, published_version FROM nudge_change_log";
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as(sql).fetch_all(shops.db.reader()).await.unwrap();
        for (key, version, published) in &rows {
            let subject = subject::subject(entity, &id(key));
            let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
            let shown = message.headers.get(VERSION_HEADER)?.as_str() == version.to_string();
            (shown && version == published).then_some(())?;
        }
        (rows.len() == SHOPS).then_some(())
    })
    .await;
}

fn relay_errors(shops: &Shops<Recording>) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    shops.publisher.register_metrics(&mut registry);
    encode(&mut text, &registry).unwrap();
    let series = "nudge_relay_errors_total{entity=\"shop\"} ";
    let errors = text.lines().find_map(|line| line.strip_prefix(series)).unwrap();
    errors.parse().unwrap()
}

/// Returns how often transactions had to be retried.
async fn writers(ways: Ways) -> Attempts {
    let nats = Nats::start().await;
    let shops = prepared(ways).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tx = shops.db.begin().await.unwrap();
    for (key, (version, ..)) in shops.log().await {
        let state = state(&mut tx, &key).await.unwrap().unwrap();
        seen.lock().states.insert((key, version), state);
    }
    tx.rollback().await.unwrap();

    let stop = CancellationToken::new();
    // It also locks rows of the change log.
    let relay = shops.publisher.spawn_relay(&nats.broker("shops").await, stop.clone());
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}/sync/v1/shop/batch-get", listener.local_addr().unwrap());
    tokio::spawn(serve::serve(listener, shops.publisher.sync_api(Desk), stop.clone()));
    let reading = CancellationToken::new();
    let readers: Vec<_> =
        (0..2).map(|_| tokio::spawn(read(url.clone(), reading.clone()))).collect();
    let mut writing = Vec::new();
    for n in 0..ways.writers {
        let own = shops.opened_again().await;
        if ways.captured {
            own.capture(&tables()).await.unwrap();
        }
        let relay = shops.publisher.clone();
        writing.push(tokio::spawn(write(own, move || relay.wake(), ways, n, seen.clone())));
    }
    for writer in writing {
        writer.await.unwrap();
    }
    reading.cancel();
    let mut answers = Vec::new();
    for reader in readers {
        answers.extend(reader.await.unwrap());
    }
    shown(&nats, &shops).await;
    // SQLite keeps no queue of those who wait for its one lock: on a busy machine the relay, like any writer, may wait
    // longer than its limit and try again.
    if shops.db.kind() == Kind::Postgres {
        assert_eq!(relay_errors(&shops), 0, "the relay never had to try again");
    }
    stop.cancel();
    relay.await.unwrap();

    let seen = seen.lock();
    check(&ways, &seen, &answers);
    println!(
        "figure | {:?} | {ways:?} | {} committed versions | {} callbacks' answers | {:?}",
        shops.db.kind(),
        seen.states.len(),
        answers.len(),
        seen.attempts
    );
    seen.attempts
}

fn check(ways: &Ways, seen: &Seen, answers: &[(Pair, String)]) {
    for (key, order) in &seen.order {
        let mut order = order.clone();
        order.sort_unstable();
        let places: Vec<_> = order.iter().map(|(place, _)| *place).collect();
        let expected: Vec<_> = (1..).take(order.len()).collect();
        assert_eq!(
            places, expected,
            "{key}: no edit is lost, and none is counted that was not made"
        );
        for pair in order.windows(2) {
            assert!(pair[0].1 < pair[1].1, "{key}: versions follow the order of commits: {pair:?}");
        }
    }
    for (pair, state) in answers {
        assert!(adds_up(state), "torn: {pair:?} {state}");
        assert_eq!(seen.states.get(pair), Some(state), "{pair:?}");
    }
    let versions: HashSet<_> = answers.iter().map(|(pair, _)| pair).collect();
    assert!(versions.len() > SHOPS * 2, "callbacks met the writers: {}", versions.len());
    assert!(seen.rolled_back > 0 && seen.states.len() > ways.writers as usize * TRANSACTIONS / 2);
}

/// With the database's default settings.
async fn sixteen(captured: bool) {
    writers(Ways { writers: 16, captured, in_order: false, isolation: None }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_rise_in_commit_order_and_callbacks_answer_one_snapshot_when_recorded() {
    sixteen(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_rise_in_commit_order_and_callbacks_answer_one_snapshot_when_captured() {
    sixteen(true).await;
}
