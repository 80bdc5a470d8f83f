//! Someone publishes versions of IDs that the owner never had.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use nudge_protocol::{Version, notification::VERSION_HEADER};
use nudge_publisher::relay::{STRANGERS_AT_ONCE, STRANGERS_PER_SECOND};
use nudge_runtime::clock;
use nudge_tests::{Copy, Nats, Owner, Wire, eventually, id};
use serde_json::{Value, json};

use crate::publisher::support::{Relay, published, row, rows};

fn now() -> u64 {
    clock::now().unix_micros() as u64
}

async fn post(owner: &Owner, path: &str, body: &Value) -> Value {
    let url = format!("{}/nudge/v1/tombstones/thing{path}", owner.url());
    let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn listed(owner: &Owner) -> Vec<String> {
    let url = format!("{}/nudge/v1/tombstones/thing", owner.url());
    let page: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn counted(owner: &Owner, expected: u64) {
    eventually("the tombstones are counted", || async {
        (owner.publisher.health().stranger_tombstones == expected).then_some(())
    })
    .await;
}

/// Whether the log says that an ID never existed.
async fn never_existed(owner: &Owner, text: &str) -> bool {
    let mut tx = owner.publisher.begin().await.unwrap();
    let recorded = owner.publisher.recorded(&mut tx, &[id(text)]).await.unwrap();
    tx.rollback().await.unwrap();
    recorded[&id(text)].never_existed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_up_version_gets_a_tombstone_that_says_so_until_there_is_such_an_entity() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("owner").await).await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put("real", json!(1)).await;
    owner.delete("real").await;
    published(&owner.db).await;
    let made_up = now();
    for id in ["tomb-1", "tomb-2"] {
        wire.announce(id, Some(&made_up.to_string())).await;
    }
    counted(&owner, 2).await;
    published(&owner.db).await;
    assert_eq!(listed(&owner).await, ["tomb-1", "tomb-2"]);
    assert!(row(&owner.db, "tomb-1").await.version > made_up);
    for (id, never) in [("tomb-1", true), ("tomb-2", true), ("real", false)] {
        assert_eq!(never_existed(&owner, id).await, never, "{id}");
    }
    // Subscribers get a version, and nothing waits.
    copy.converged(&owner).await;
    eventually("nothing waits", || async { (copy.status().await["parked"] == 0).then_some(()) })
        .await;
    let version = row(&owner.db, "tomb-1").await.version;
    let put = owner.put("tomb-1", json!(1)).await.version.get();
    assert!(put > version, "{put}, {version}");
    owner.delete("tomb-1").await;
    assert!(!never_existed(&owner, "tomb-1").await, "it existed, and was deleted");
    assert_eq!(listed(&owner).await, ["tomb-2"]);
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_flag_any_tombstone_and_a_further_message_does_not_undo_it() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("owner").await).await, Wire::open(&nats).await);
    owner.put("live", json!(1)).await;
    owner.put("deleted", json!(1)).await;
    owner.delete("deleted").await;
    wire.announce("tomb", Some(&now().to_string())).await;
    counted(&owner, 1).await;
    let ids = json!({"ids": ["live", "deleted", "tomb", "unheard-of"]});
    let mut answer = post(&owner, "/never-existed", &ids).await;
    answer["flagged"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
    let expected = json!({"flagged": ["deleted", "tomb"], "no_tombstone": ["live", "unheard-of"]});
    assert_eq!(answer, expected);
    counted(&owner, 0).await;
    assert_eq!(listed(&owner).await, [""; 0]);
    assert!(never_existed(&owner, "deleted").await);
    published(&owner.db).await;
    // The row stays, since its message stays.
    let before = row(&owner.db, "tomb").await.version;
    wire.announce("tomb", Some(&(now() + 1_000_000_000).to_string())).await;
    eventually("it has a version above the new one", || async {
        (row(&owner.db, "tomb").await.version > before + 1_000_000).then_some(())
    })
    .await;
    assert!(never_existed(&owner, "tomb").await);
    assert_eq!(listed(&owner).await, [""; 0]);
    owner.put("deleted", json!(2)).await;
    owner.delete("deleted").await;
    assert!(!never_existed(&owner, "deleted").await);
}

/// The log itself says when each row was created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_of_made_up_ids_are_bounded_in_rate_and_no_change_waits_for_them() {
    const MORE: usize = 500;
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let made = STRANGERS_AT_ONCE + MORE;
    owner.put("before", json!(1)).await;
    owner.second_relay(&nats.broker("owner").await);
    published(&owner.db).await;
    let version = now().to_string();
    let announce = |n: usize| wire.announce_owned(format!("tomb-{n:05}"), version.clone());
    futures_util::future::join_all((0..made).map(announce)).await;
    // It is created while its ID waits for a tombstone: the last one made up, with a version far ahead.
    let ahead = now() + 3_600_000_000;
    let subject = Wire::subject("newborn");
    let mut shown = nats.subscribe(&subject).await;
    wire.announce("newborn", Some(&ahead.to_string())).await;
    eventually("some have their tombstone, and the others wait", || async {
        (rows(&owner.db).await.len() > STRANGERS_AT_ONCE).then_some(())
    })
    .await;
    owner.put("fresh", json!(1)).await;
    // The relay has read the stream to its end.
    published(&owner.db).await;
    owner.put("newborn", json!(1)).await;
    eventually("all have a tombstone", || async {
        (rows(&owner.db).await.len() == made + 3).then_some(())
    })
    .await;
    published(&owner.db).await;
    let rows = rows(&owner.db).await;
    let later = rows.values().filter(|row| row.published_seq > rows["fresh"].published_seq);
    assert!(
        later.count() > STRANGERS_PER_SECOND,
        "what changed was published before those that waited"
    );
    let sql = "SELECT changed_at FROM nudge_change_log WHERE id LIKE 'tomb-%' ORDER BY changed_at";
    let times: Vec<(i64,)> = sqlx::query_as(sql).fetch_all(owner.db.reader()).await.unwrap();
    for (n, (at,)) in times.iter().enumerate() {
        let allowed = n.saturating_sub(STRANGERS_AT_ONCE - 1) / STRANGERS_PER_SECOND;
        let after = Duration::from_micros((at - times[0].0) as u64);
        // The clock is read a moment after the limit was computed.
        let after = after + Duration::from_millis(500);
        assert!(after.as_secs() as usize >= allowed, "number {n} after {after:?}");
    }
    assert!(row(&owner.db, "newborn").await.version > ahead);
    // It was never published with a version below the one that was made up.
    let mut versions = Vec::new();
    while versions.last().is_none_or(|last| *last == ahead) {
        let message = shown.next().await.unwrap();
        let headers: &HeaderMap = message.headers.as_ref().unwrap();
        let version: Version = headers.get(VERSION_HEADER).unwrap().as_str().parse().unwrap();
        versions.push(version.get());
    }
    assert!(versions.iter().all(|version| *version >= ahead), "{versions:?} {ahead}");
}

/// Only that relay knows what waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_wait_for_a_tombstone_are_found_again_by_the_next_relay() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    owner.put("before", json!(1)).await;
    let relay = Relay::start(&owner.db, &nats.broker("owner").await).await;
    published(&owner.db).await;
    let (made, version) = (STRANGERS_AT_ONCE + 1_000, now().to_string());
    let announce = |n: usize| wire.announce_owned(format!("tomb-{n:05}"), version.clone());
    futures_util::future::join_all((0..made).map(announce)).await;
    eventually("some have their tombstone, and the stream is read to its end", || async {
        (rows(&owner.db).await.len() > STRANGERS_AT_ONCE).then_some(())
    })
    .await;
    published(&owner.db).await;
    relay.stop().await;
    assert!(rows(&owner.db).await.len() < made, "they wait");
    let _relay = Relay::start(&owner.db, &nats.broker("owner").await).await;
    eventually("all have a tombstone", || async {
        (rows(&owner.db).await.len() == made + 1).then_some(())
    })
    .await;
}
