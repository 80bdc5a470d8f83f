//! After each start of the server, the relay checks the stream for recent changes while it publishes.

use nudge_publisher::stream::config;
use nudge_tests::{Nats, Owner, eventually};
use serde_json::json;

use crate::publisher::support::{
    NO_RIGHT_TO_ALTER, Relay, age, compared, last_seq, message, messages, owner_of,
    publish_failures, published, purgeable, restart_under, shown, stream, take_out, thing,
};

/// Things in the order in which the relay checks them.
fn many() -> Vec<String> {
    (0..2_500).map(|n| format!("{n:04}")).collect()
}

async fn put_many(owner: &Owner) {
    let ids = many();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({}))).collect();
    owner.put_all(&things).await;
}

#[tokio::test]
async fn a_start_publishes_nothing_again_that_stands_in_the_stream() {
    let mut nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    put_many(&owner).await;
    owner.delete("0007").await;
    published(&owner.db).await;
    relay.stop().await;
    nats.restart().await;
    let before = last_seq(&nats).await;
    let relay = Relay::start(&owner.db, &broker).await;
    compared(&relay.publisher).await;
    shown(&nats, &owner.db).await;
    assert_eq!((last_seq(&nats).await, relay.publisher.health().published), (before, 0));
}

#[tokio::test]
async fn a_new_connection_publishes_nothing_again_that_stands_in_the_stream() {
    let mut nats = Nats::start().await;
    let owner = owner_of(&nats.broker("things").await, &["1", "2"]).await;
    let before = last_seq(&nats).await;
    nats.restart().await;
    // This waits until the relay has reconnected to the server.
    owner.put("3", json!({})).await;
    published(&owner.db).await;
    compared(&owner.publisher).await;
    shown(&nats, &owner.db).await;
    assert_eq!(last_seq(&nats).await, before + 1);
}

/// Everything: the sequences of lost messages may be used again, and be skipped by subscribers.
#[tokio::test]
async fn if_any_is_missing_all_that_changed_lately_is_published_again() {
    let mut nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
    purgeable(&nats).await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    put_many(&owner).await;
    owner.delete("0007").await;
    published(&owner.db).await;
    relay.stop().await;
    // Not among the sixteen that were published last, which are checked in any case.
    take_out(&nats, "1700").await;
    restart_under(&mut nats, &broker).await;
    let before = last_seq(&nats).await;
    let relay = Relay::start(&owner.db, &broker).await;
    eventually("all are published again", || async {
        let messages = messages(&nats).await;
        let again = messages.iter().filter(|message| message.seq > before);
        (again.count() == many().len()).then_some(())
    })
    .await;
    compared(&relay.publisher).await;
    shown(&nats, &owner.db).await;
    // A publish that was not acknowledged in time is repeated, although it may have arrived.
    let again = last_seq(&nats).await - before;
    let once = many().len() as u64;
    assert!((once..=once + publish_failures(&relay.publisher)).contains(&again), "{again}");
}

/// A stream without direct gets answers like a server that is too old for them.
#[tokio::test]
async fn where_the_broker_cannot_tell_what_it_has_all_that_changed_lately_is_published_again() {
    let mut nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
    let config = async_nats::jetstream::stream::Config { allow_direct: false, ..config(&thing()) };
    nats.jetstream().await.create_stream(config).await.unwrap();
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    owner.put("old", json!({})).await;
    published(&owner.db).await;
    age(&owner.db).await;
    owner.put("a", json!({})).await;
    owner.put("b", json!({})).await;
    published(&owner.db).await;
    let before = last_seq(&nats).await;
    let old = message(&nats, "old").await;
    relay.stop().await;
    restart_under(&mut nats, &broker).await;
    let relay = Relay::start(&owner.db, &broker).await;
    eventually("both are published again", || async {
        let messages = messages(&nats).await;
        (messages.iter().filter(|message| message.seq > before).count() == 2).then_some(())
    })
    .await;
    compared(&relay.publisher).await;
    shown(&nats, &owner.db).await;
    relay.stop().await;
    // Once per start of the server.
    let relay = Relay::start(&owner.db, &broker).await;
    compared(&relay.publisher).await;
    shown(&nats, &owner.db).await;
    assert_eq!(message(&nats, "old").await, old);
    assert_eq!(last_seq(&nats).await, before + 2);
}

/// A message that someone published over another one, or that is in its place after a stream went back, is not taken
/// for that other one.
#[tokio::test]
async fn another_message_on_the_subject_is_not_taken_for_the_one_that_was_published() {
    let mut nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    owner.put("1", json!({ "n": 1 })).await;
    published(&owner.db).await;
    relay.stop().await;
    nats.kill();
    let backup = nats.back_up();
    nats.restart().await;
    let relay = Relay::start(&owner.db, &broker).await;
    owner.put("1", json!({ "n": 2 })).await;
    // Only the last sixteen are checked by sequence.
    for n in 2..30 {
        owner.put(&n.to_string(), json!({})).await;
    }
    published(&owner.db).await;
    relay.stop().await;
    nats.kill();
    nats.put_back(backup);
    nats.restart().await;
    let _relay = Relay::start(&owner.db, &broker).await;
    shown(&nats, &owner.db).await;
}

/// The broker does not even answer these.
#[tokio::test]
async fn without_permission_to_look_all_that_changed_lately_is_published_again() {
    let config = "authorization { users = [ { user: owner, password: o, permissions: { \
                  publish: { allow: \">\", deny: \"$JS.API.DIRECT.>\" } } } ] }\nno_auth_user: owner";
    let mut nats = Nats::start_with(Some(config)).await;
    let owner = owner_of(&nats.broker("things").await, &["1", "2"]).await;
    let before = last_seq(&nats).await;
    nats.restart().await;
    eventually("both are published again", || async {
        (last_seq(&nats).await == before + 2).then_some(())
    })
    .await;
    shown(&nats, &owner.db).await;
}

/// Only on PostgreSQL, where a writer locks single rows.
mod once {
    use std::sync::Arc;

    use nudge_runtime::database::Kind;
    use nudge_tests::{TestDatabase, owner::ENTITY};

    use super::*;

    #[tokio::test]
    async fn what_is_missing_while_a_writer_has_it_locked_is_published_afterwards() {
        let mut nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
        purgeable(&nats).await;
        let database = Arc::new(TestDatabase::of(Kind::Postgres).await);
        let owner = Owner::start_silent_on(database, ENTITY).await;
        let broker = nats.broker("things").await;
        let relay = Relay::start(&owner.db, &broker).await;
        owner.put("locked", json!({})).await;
        published(&owner.db).await;
        // The sixteen that were published last are checked in any case.
        for n in 0..20 {
            owner.put(&n.to_string(), json!({})).await;
        }
        published(&owner.db).await;
        relay.stop().await;
        take_out(&nats, "locked").await;
        // As many messages as before: counting them does not show that one is missing.
        let jetstream = nats.jetstream().await;
        let other = jetstream.publish("changes.thing.%00", "".into()).await;
        other.unwrap().await.unwrap();
        nats.restart().await;
        let mut writer = owner.db.begin().await.unwrap();
        let lock = "SELECT version FROM nudge_change_log WHERE id = 'locked' FOR UPDATE";
        sqlx::query(lock).execute(&mut *writer).await.unwrap();
        let relay = Relay::start(&owner.db, &broker).await;
        eventually("the others are published again", || async {
            (relay.publisher.health().published >= 20).then_some(())
        })
        .await;
        compared(&relay.publisher).await;
        writer.rollback().await.unwrap();
        let stream = stream(&nats).await;
        eventually("it is published again", || async {
            stream.get_last_raw_message_by_subject("changes.thing.locked").await.ok()
        })
        .await;
        published(&owner.db).await;
    }
}
