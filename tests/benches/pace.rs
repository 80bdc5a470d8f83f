//! How fast a subscriber follows, compared with a loop that is written by hand, in one run.
//!
//! `cargo bench -p nudge-tests` prints, on a real nats-server and SQLite:
//! - how fast the kit and the plain loop (message → GET → upsert → ack) work off a backlog, in entities per second, and
//!   their ratio; and the kit while somebody asks it how keys stand;
//! - when idle, the time from the owner's commit until the row is applied: median and 99th percentile.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nudge_protocol::{admin::MAX_KEYS, subject, sync_api::LiveEntity};
use nudge_runtime::{Database, database::Durability};
use nudge_subscriber_kit::Settings;
use nudge_tests::{Copy, Nats, Owner, eventually};
use serde_json::json;

const ENTITIES: usize = 20_000;
const PLAIN_ENTITIES: usize = 4_000;
const IDLE_CHANGES: usize = 200;
/// How often the kit's pace is measured, without and with questions. The best counts: others use the machine,
/// too.
const ROUNDS: usize = 3;
const ASKED_PER_SECOND: u32 = 20;

#[tokio::main]
async fn main() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    fill(&owner).await;
    let (mut quiet, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        quiet.push(kit(&nats, &owner, false).await);
        asked.push(kit(&nats, &owner, true).await);
    }
    let best = |paces: Vec<f64>| paces.into_iter().fold(0.0, f64::max);
    let (kit, asked) = (best(quiet), best(asked));
    let plain = plain_loop(&nats, &owner).await;
    println!("backlog, kit:        {kit:>8.0} entities/s");
    println!(
        "  while asked about 256 keys {ASKED_PER_SECOND} times/s: {asked:.0} ({:.2})",
        asked / kit
    );
    println!("backlog, plain loop: {plain:>8.0} entities/s");
    println!("ratio:               {:>8.1}", kit / plain);
    let mut lags = idle(&nats, &owner).await;
    lags.sort_by(f64::total_cmp);
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize] * 1e3;
    println!("idle, commit to applied: p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99));
}

async fn fill(owner: &Owner) {
    let body = json!({"name": "달빛국수 망원점", "region": "마포구", "open": true});
    let ids: Vec<String> = (0..ENTITIES).map(|n| format!("thing-{n:06}")).collect();
    for ids in ids.chunks(500) {
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), body.clone())).collect();
        owner.put_all(&things).await;
    }
    eventually("everything is published", || async {
        (owner.publisher.health().published >= ENTITIES as u64).then_some(())
    })
    .await;
}

/// The pace of the kit; if `is_asked`, while somebody asks how keys stand, over and over.
async fn kit(nats: &Nats, owner: &Owner, is_asked: bool) -> f64 {
    let began = Instant::now();
    let copy = Copy::start_with(&nats.broker("copies").await, owner, Settings::default()).await;
    let asking = is_asked.then(|| tokio::spawn(ask(copy.admin("keys/thing"))));
    eventually("everything is applied", || async {
        let query = sqlx::query_as::<_, (i64,)>("SELECT count(*) FROM copy");
        let (count,) = query.fetch_one(copy.db.reader()).await.expect("a count");
        (count == ENTITIES as i64).then_some(())
    })
    .await;
    let pace = ENTITIES as f64 / began.elapsed().as_secs_f64();
    if let Some(asking) = asking {
        asking.abort();
    }
    copy.stop().await;
    pace
}

/// Asks how as many keys stand as one request may name.
async fn ask(url: String) {
    let http = reqwest::Client::new();
    let mut interval = tokio::time::interval(Duration::from_secs(1) / ASKED_PER_SECOND);
    for first in 0.. {
        interval.tick().await;
        let ids = (0..MAX_KEYS).map(|n| format!("thing-{:06}", (first * 997 + n * 79) % ENTITIES));
        let request = http.post(&url).json(&json!({"ids": ids.collect::<Vec<_>>()}));
        let status = request.send().await.expect("an answer").status();
        assert_eq!(status, 200);
    }
}

/// A consumer as one writes it in ten minutes: one message, one GET, one upsert.
async fn plain_loop(nats: &Nats, owner: &Owner) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite:{}", dir.path().join("plain.db").display());
    let db = Database::open(&url, Durability::Refillable).await.expect("a database");
    let create =
        "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT NOT NULL, body TEXT NOT NULL)";
    let mut tx = db.begin().await.expect("a transaction");
    sqlx::query(create).execute(&mut *tx).await.expect("a table");
    tx.commit().await.expect("a commit");
    let stream = nats.jetstream().await.get_stream("CHANGES_thing").await.expect("the stream");
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("plain".into()),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    let http = reqwest::Client::new();
    let entity = owner.publisher.entity();
    let began = Instant::now();
    for _ in 0..PLAIN_ENTITIES {
        let message = messages.next().await.expect("a message").expect("a good message");
        let id = subject::decode_subject(entity, &message.subject).expect("an id");
        let url = format!("{}/sync/v1/{entity}/{}", owner.url(), subject::encode_token(&id));
        let answer = http.get(url).send().await.expect("an answer");
        let live: LiveEntity = answer.json().await.expect("an entity");
        let upsert = "INSERT INTO copy VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET \
                      version = excluded.version, body = excluded.body WHERE excluded.version > copy.version";
        let query = sqlx::query(upsert).bind(id.as_str().to_owned()).bind(live.version.to_i64());
        let mut tx = db.begin().await.expect("a transaction");
        query.bind(live.state.get().to_owned()).execute(&mut *tx).await.expect("an upsert");
        tx.commit().await.expect("a commit");
        message.ack().await.expect("an ack");
    }
    PLAIN_ENTITIES as f64 / began.elapsed().as_secs_f64()
}

async fn idle(nats: &Nats, owner: &Owner) -> Vec<f64> {
    let copy = Copy::start_with(&nats.broker("copies").await, owner, Settings::default()).await;
    copy.quiet().await;
    let mut lags = Vec::with_capacity(IDLE_CHANGES);
    for n in 0..IDLE_CHANGES {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let token = owner.put(&format!("idle-{n}"), json!({"n": n})).await;
        let committed = Instant::now();
        let url = copy.admin(&format!("wait?token={token}"));
        let answer = reqwest::get(url).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        lags.push(committed.elapsed().as_secs_f64());
    }
    lags
}
