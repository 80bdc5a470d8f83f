//! Two replicas share a database, and one of them is frozen in the middle of its work.
//!
//! Most are frozen outside of their database transactions, since inside of one, a replica would keep its locks. On
//! SQLite that is the lock of the whole file, so nothing can be promised to the others until it continues. PostgreSQL
//! ends such a transaction after a while: see the last test.

use std::time::Duration;

use futures_util::StreamExt;
use nudge_runtime::database::Kind;
use nudge_tests::{
    Line, Service, Way, database, eventually, line_to,
    processes::{Further, World, events::Events, trial::Trial},
    within,
};
use serde_json::json;
use sqlx::{AnyConnection, Connection};

use crate::processes::PROGRAM;

/// The stores and versions in the owner's answers that are being held up.
fn in_hand(held: &str, ids: impl Iterator<Item = String>) -> Vec<(String, u64)> {
    let version = |id: String| {
        let (_, item) = held.split_once(&format!("{{\"id\":{},\"status\":", json!(id)))?;
        let (_, version) = item.split_once("\"version\":")?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((id, digits.parse().ok()?))
    };
    ids.filter_map(version).collect()
}

/// Freezes search-1 while it has answers of the owner to process and has not acknowledged what they are for. Returns
/// those.
///
/// On a busy machine that may need more than one try: a notification is delivered to the other replica after 500 ms,
/// and the contents audit asks the owner for the same stores, without any notification.
async fn freeze_with_answers(trial: &Trial, line: &Line) -> Vec<(String, u64)> {
    let ids = || trial.writer().written().newest.into_keys();
    for _ in 0..10 {
        line.hold(Way::Back);
        eventually("answers are on their way", || async {
            let processing = trial.world.status("search-1").await?["processing"].as_u64()?;
            (processing > 0 && !in_hand(&line.said(Way::Back), ids()).is_empty()).then_some(())
        })
        .await;
        trial.world.freeze_outside_transactions("search-1").await;
        if trial.world.unacknowledged("search").await > 0 {
            return in_hand(&line.said(Way::Back), ids());
        }
        line.release();
        trial.world.thaw("search-1");
        trial.writer().write_all().await;
    }
    panic!("search-1 was never frozen with a notification that it had not acknowledged");
}

/// Freezes search-1 while it has answers to process, until search-2 has applied a newer version of one of them. Returns
/// that one.
async fn hold_an_answer_until_it_is_old(trial: &Trial, line: &Line) -> (String, u64) {
    let answers = freeze_with_answers(trial, line).await;
    trial.writer().write_again(answers.iter().take(5).map(|(id, _)| id.clone())).await;
    let outdated = eventually("search-2 applies a newer version of one in hand", || async {
        for (id, version) in &answers {
            if trial.world.applied("search-2", id).await? > *version {
                return Some((id.clone(), *version));
            }
        }
        None
    })
    .await;
    line.release();
    trial.world.thaw("search-1");
    outdated
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_frozen_with_old_answers_in_hand_holds_nobody_up_and_undoes_nothing() {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    let line = line_to(world.port("store-info")).await;
    let owner_url = Some(format!("http://{}", line.address()));
    world.add("search-1", Service::Search, Further { owner_url, ..Further::default() }).await;
    world.add("search-2", Service::Search, Further::default()).await;
    world.add("review", Service::Review, Further::default()).await;
    let mut trial = Trial::start("search replica frozen", world, 7);
    trial.writer().write_all().await;
    trial.world.deliver_again_after("search", Duration::from_millis(500)).await;

    let events = Events::of(&trial.world.place("search-1").url).await;
    // The replica gives up on an answer after 10 s, and a busy machine may need longer than that to get here. Then it
    // is retried.
    let mut tries = 1..=5;
    loop {
        assert!(tries.next().is_some(), "search-1 was never seen to ignore the old answer");
        let outdated = hold_an_answer_until_it_is_old(&trial, &line).await;
        let ignored = || async { events.ignored(&outdated.0, outdated.1).then_some(()) };
        if within(Duration::from_secs(15), ignored).await.is_some() {
            break;
        }
    }

    freeze_with_answers(&trial, &line).await;
    trial.writer().write_all().await;
    trial.settle().await;
    line.release();
    trial.world.thaw("search-1");
    trial.end().await;
}

/// Freezes store-info-1 while its notifications are held up, and lets them arrive after newer ones. Returns whether one
/// did.
async fn an_old_notification_arrives(trial: &Trial, line: &Line) -> bool {
    // A replica that was frozen before may have lost its connection, and makes another only on a line that is open.
    for is_open in [true, false] {
        line.hold(Way::There);
        if is_open {
            line.release();
        }
        eventually("notifications are on their way", || async {
            line.said(Way::There).contains("PUB changes.store.").then_some(())
        })
        .await;
    }
    trial.world.freeze_outside_transactions("store-info-1").await;
    trial.writer().write_all().await;
    let newer = trial.writer().written().newest;
    eventually("store-info-2 publishes newer ones", || async {
        for (id, version) in &newer {
            if trial.world.notified(id).await? < *version {
                return None;
            }
        }
        Some(())
    })
    .await;

    // store-info-2 may put it right at any moment, so the stream itself may not show it.
    let mut notifications = trial.world.notifications().await;
    line.release();
    let old = async {
        loop {
            let (id, version) = notifications.next().await.expect("the broker is up");
            if newer.get(&id).is_some_and(|newer| version < *newer) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), old).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_frozen_between_reading_and_publishing_undoes_nothing() {
    let mut world = World::new(PROGRAM).await;
    let line = line_to(world.nats().port()).await;
    let nats_url = Some(format!("nats://{}", line.address()));
    world.add("store-info-1", Service::StoreInfo, Further { nats_url, ..Further::default() }).await;
    world.add("store-info-2", Service::StoreInfo, Further::default()).await;
    let owner_url = || Some(world.place("store-info-2").url);
    let follow =
        [owner_url(), owner_url()].map(|owner_url| Further { owner_url, ..Further::default() });
    let [search, review] = follow;
    world.add("search", Service::Search, search).await;
    world.add("review", Service::Review, review).await;
    let mut trial = Trial::start("owner replica frozen", world, 8);
    trial.writer().write_all().await;
    let by = trial.writer().written().by;
    for name in ["store-info-1", "store-info-2"] {
        assert!(by.get(name) > Some(&0), "each replica takes writes: {by:?}");
    }

    // The program may be frozen while only half of a message is on the line.
    let mut tries = 1..=5;
    while !an_old_notification_arrives(&trial, &line).await {
        assert!(tries.next().is_some(), "no old notification arrived: {}", line.said(Way::There));
        trial.world.thaw("store-info-1");
    }
    trial.settle().await;
    let newest = trial.newest();
    trial.world.thaw("store-info-1");
    eventually("the newest notification of every store is in the stream", || async {
        for (id, version) in &newest {
            if trial.world.notified(id).await? != *version {
                return None;
            }
        }
        Some(())
    })
    .await;
    trial.end().await;
}

mod once {
    use super::*;

    /// Writes a store. Returns the status of the answer.
    async fn put(url: String) -> u16 {
        let store = reqwest::Client::new().put(url).json(&json!({"name": "가게"}));
        store.send().await.expect("an answer").status().as_u16()
    }

    /// On PostgreSQL. A replica is frozen while it waits for a row that the test has locked, and gets the lock when it
    /// can no longer use it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_owner_frozen_inside_a_transaction_does_not_keep_its_locks() {
        let mut world = World::on(Kind::Postgres, PROGRAM).await;
        for name in ["store-info-1", "store-info-2"] {
            world.add(name, Service::StoreInfo, Further::default()).await;
        }
        let [first, second] = ["store-info-1", "store-info-2"]
            .map(|name| format!("{}/stores/42", world.place(name).url));
        assert_eq!(put(first.clone()).await, 201);

        let url = world.database(Service::StoreInfo).url();
        let mut own = AnyConnection::connect(url).await.expect("a connection");
        let mut lock = own.begin().await.expect("a transaction");
        let row = sqlx::query("SELECT id FROM store WHERE id = '42' FOR UPDATE");
        row.execute(&mut *lock).await.expect("a lock");
        let waiting = tokio::spawn(put(first.clone()));
        eventually("store-info-1 waits for the row", || async {
            let waits = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock') \
                THEN RAISE 'nobody waits'; END IF; END $$";
            database::try_execute(url, waits).await.ok()
        })
        .await;
        world.freeze("store-info-1");
        lock.rollback().await.expect("the row is free");
        // Each attempt waits for the lock for a while, and fails if it does not get it.
        eventually("it is not blocked forever", || async {
            let status = put(second.clone()).await;
            assert!(matches!(status, 200 | 503), "{status}");
            (status == 200).then_some(())
        })
        .await;

        world.thaw("store-info-1");
        let status = waiting.await.expect("no panic");
        assert!(matches!(status, 200 | 503), "{status}: it was held up, and may say so");
        eventually("store-info-1 is as well as before", || async {
            (put(first.clone()).await == 200).then_some(())
        })
        .await;
    }
}
