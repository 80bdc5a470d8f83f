//! Row locks, and isolation levels: someone has set `default_transaction_isolation` for the whole database, so a writer
//! that conflicts with another one has to retry, deadlock or not.

use clap::Parser;
use nudge_runtime::database::Kind;
use nudge_tests::TestDatabase;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Ways, isolate, writers};

/// With more of them on so few shops, nearly every attempt would conflict.
const WRITERS: u64 = 6;
const CLIENTS: usize = 16;
const WRITES_EACH: usize = 10;

async fn at(isolation: &'static str) {
    for captured in [true, false] {
        let isolation = Some(isolation);
        writers(Ways { writers: WRITERS, captured, in_order: false, isolation }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_repeatable_read_versions_rise_in_commit_order_and_nothing_is_lost() {
    at("repeatable read").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_serializable_versions_rise_in_commit_order_and_nothing_is_lost() {
    at("serializable").await;
}

/// Writers that lock shops in the same order never deadlock, since neither the triggers nor the relay lock in another
/// order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_who_keep_to_one_order_never_deadlock() {
    for captured in [true, false] {
        let isolation = Some("read committed");
        let tried = writers(Ways { writers: 16, captured, in_order: true, isolation }).await;
        assert_eq!(tried.aborted, 0, "{tried:?}");
    }
}

/// Replicas that start together and install triggers, and requests that write the same store at the same time: nobody
/// notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_any_level_starts_and_requests_that_meet_all_succeed() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let (database, stop) = (TestDatabase::of(Kind::Postgres).await, CancellationToken::new());
        isolate(&database, level).await;
        let args = store_info::Args::parse_from([
            "store-info",
            "--bind=127.0.0.1:0",
            "--nats-url=nats://127.0.0.1:1",
            &format!("--database-url={}", database.url()),
        ]);
        let start = async || store_info::start(&args, stop.clone()).await.expect(level);
        let (first, second) = tokio::join!(start(), start());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let replica = if client % 2 == 0 { &first } else { &second };
            let url = format!("http://{}/stores/s1", replica.address());
            clients.spawn(async move {
                let http = reqwest::Client::new();
                for n in 0..WRITES_EACH {
                    let put = http.put(&url).json(&json!({"name": format!("{client} {n}")}));
                    let status = put.send().await.unwrap().status();
                    assert!(status.is_success(), "{level}: {status}");
                }
            });
        }
        clients.join_all().await;
        stop.cancel();
        first.stopped().await;
        second.stopped().await;
    }
}
