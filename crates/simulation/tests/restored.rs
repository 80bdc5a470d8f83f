//! A broker, or the change log of an owner, that went back to an older state under a running relay.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use nudge_protocol::{EntityName, Timestamp};
use nudge_publisher::sink::Message;
use nudge_runtime::{Database, clock};
use nudge_simulation::ports::SimulatedOwner;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::stream::Stream;

/// Longer than it takes until the relay looks at its stream.
const LOOK: Duration = Duration::from_secs(6);
/// When these stories begin, in unix microseconds.
const BEGINNING_MICROS: i64 = 1_800_000_000_000_000;
const ONE_SECOND_MICROS: u64 = 1_000_000;
/// More than are looked for by their places on each connection.
const MANY: usize = 20;

/// Programs' clocks go with the runtime's.
fn virtual_clock() -> clock::Simulated {
    let began = Instant::now();
    clock::simulate(move || {
        let micros = began.elapsed().as_micros() as i64;
        Timestamp::from_unix_micros(BEGINNING_MICROS + micros)
    })
}

/// An owner of these, and the relay that has published them.
async fn owner_of(stream: &Arc<Stream>, ids: impl IntoIterator<Item = &str>) -> SimulatedOwner {
    owner_and_relay_of(stream, ids).await.0
}

/// The same, with that relay's task.
async fn owner_and_relay_of(
    stream: &Arc<Stream>,
    ids: impl IntoIterator<Item = &str>,
) -> (SimulatedOwner, JoinHandle<()>) {
    let owner = SimulatedOwner::new(7, &EntityName::new("thing").unwrap()).await;
    let relay = owner.spawn_relay_to(stream.clone(), CancellationToken::new());
    for id in ids {
        put(&owner, id).await;
        sleep(Duration::from_millis(10)).await;
    }
    sleep(LOOK).await;
    (owner, relay)
}

async fn put(owner: &SimulatedOwner, id: &str) {
    owner.write([(id.to_owned(), Some(json!({})))]).await;
}

/// What another relay, or anybody else, publishes.
fn message(id: &str, version: u64) -> Message {
    let body = format!(r#"{{"id":"{id}","change":"updated"}}"#).into_bytes();
    Message {
        subject: format!("changes.thing.{id}"),
        version: version.to_string(),
        body,
        headers: Vec::new(),
    }
}

/// Alters the change log behind the relay's back.
async fn execute(db: &Database, sql: String) {
    db.write(sqlx::query(AssertSqlSafe(sql))).await.expect("it is altered");
}

/// The version in the change log.
async fn version(db: &Database, id: &str) -> u64 {
    let sql = format!("SELECT version FROM nudge_change_log WHERE id = '{id}'");
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let (version,): (i64,) = db.run(query.fetch_one(db.reader())).await.expect("a row");
    version as u64
}

/// The row as it was before all that followed: changed a moment ago, and not published.
async fn put_back_unpublished(db: &Database, id: &str, version: u64) {
    let sql = format!(
        "UPDATE nudge_change_log SET version = {version}, published_version = 0, published_seq = 0 \
         WHERE id = '{id}'"
    );
    execute(db, sql).await;
}

/// The broker went back to its first message. Then an older version of the second came, which had been under way for
/// long, and the last one, from a relay that had not heard of its acknowledgement.
#[tokio::test(start_paused = true)]
async fn an_older_version_beyond_the_place_of_a_newer_one_is_followed_by_the_newer() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    let owner = owner_of(&stream, ["42", "last", "last"]).await;
    let newest = version(owner.db(), "42").await;
    stream.restart(|messages| {
        assert!(messages.remove(&1).is_some() && messages.contains_key(&3));
        messages.insert(2, message("42", newest - 1));
    });
    sleep(LOOK).await;
    assert_eq!(stream.version("42"), newest);
}

/// Not among those that are looked for by their places.
#[tokio::test(start_paused = true)]
async fn an_older_version_in_the_very_place_of_a_newer_one_is_followed_by_the_newer() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    let later: Vec<_> = (0..MANY).map(|n| format!("later-{n}")).collect();
    let ids = ["42"].into_iter().chain(later.iter().map(String::as_str));
    let owner = owner_of(&stream, ids).await;
    let newest = version(owner.db(), "42").await;
    stream.restart(|messages| {
        messages.insert(1, message("42", newest - 1));
    });
    sleep(LOOK).await;
    assert_eq!(stream.version("42"), newest);
}

/// The relay waits for the broker, so it sees nothing of what another relay publishes and of a restore after that.
/// What it then finds pending is older than any healthy log has it.
#[tokio::test(start_paused = true)]
async fn a_change_that_came_back_is_not_published_before_the_stream_is_read() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    let owner = owner_of(&stream, ["first"]).await;
    *stream.slow.lock() = Duration::from_secs(3);
    stream.restart(|_| {});
    sleep(Duration::from_secs(1)).await;
    put(&owner, "42").await;
    let lost = version(owner.db(), "42").await + 1;
    stream.take(message("42", lost));
    sleep(LOOK).await;
    assert!(stream.version("42") > lost);
    assert_eq!(stream.version("42"), version(owner.db(), "42").await);
}

/// It has published nothing of it itself, and read it long ago.
#[tokio::test(start_paused = true)]
async fn a_relay_notices_that_its_log_lost_what_another_one_published() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    let owner = owner_of(&stream, ["first"]).await;
    let lost = version(owner.db(), "first").await + ONE_SECOND_MICROS;
    let place = stream.take(message("42", lost));
    let published = format!(
        "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at, \
         published_version, published_seq) VALUES ('thing', '42', {lost}, 'updated', 0, {lost}, {lost}, {place})"
    );
    execute(owner.db(), published).await;
    sleep(LOOK).await;
    put_back_unpublished(owner.db(), "42", lost - 1).await;
    sleep(LOOK).await;
    assert!(stream.version("42") > lost);
    assert_eq!(stream.version("42"), version(owner.db(), "42").await);
}

/// What is made good then would be published over the only message that tells of what the log lost.
#[tokio::test(start_paused = true)]
async fn a_log_that_went_back_while_others_altered_the_stream_is_noticed_first() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    stream.can_be_mended.store(true, SeqCst);
    let owner = owner_of(&stream, ["42"]).await;
    let kept = version(owner.db(), "42").await;
    put(&owner, "42").await;
    sleep(LOOK).await;
    let lost = stream.version("42");
    assert!(lost > kept);
    stream.altered.store(true, SeqCst);
    let put_back = format!(
        "UPDATE nudge_change_log SET version = {kept}, published_version = {kept}, published_seq = 1"
    );
    execute(owner.db(), put_back).await;
    sleep(LOOK).await;
    assert!(!owner.health().altered, "it was altered back");
    assert!(stream.version("42") > lost);
    assert_eq!(stream.version("42"), version(owner.db(), "42").await);
}

/// What the relay knows of the stream is not true of that log. The next one must not find it there.
#[tokio::test(start_paused = true)]
async fn a_log_that_goes_back_during_a_check_is_not_told_what_was_found_out_before() {
    let (_clock, stream) = (virtual_clock(), Stream::new());
    let (owner, relay) = owner_and_relay_of(&stream, ["42"]).await;
    let kept = version(owner.db(), "42").await;
    put(&owner, "42").await;
    sleep(LOOK).await;
    let lost = stream.version("42");
    let db = owner.db().clone();
    *stream.meanwhile.lock() = Some(Box::pin(async move {
        let log = format!(
            "UPDATE nudge_change_log SET version = {kept}, published_version = {kept}, published_seq = 1"
        );
        execute(&db, log).await;
        execute(&db, "UPDATE nudge_relay_stream SET known_seq = 1".to_owned()).await;
        Ok(())
    }));
    // There is something to read, which says nothing of what was lost.
    stream.take(message("%00", lost));
    while stream.meanwhile.lock().is_some() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1)).await;
    // It ends at once, as a process that is killed.
    relay.abort();
    owner.spawn_relay_to(stream.clone(), CancellationToken::new());
    sleep(LOOK).await;
    assert!(stream.version("42") > lost);
    assert_eq!(stream.version("42"), version(owner.db(), "42").await);
}
