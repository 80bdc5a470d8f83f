//! The broker lost messages that it had acknowledged: the relay finds out and publishes them again.
//!
//! Every change is first made to look old, since recent ones are checked in any case (`compare.rs`).

use nudge_publisher::stream::config;
use nudge_tests::{Nats, Owner, Wire, eventually};
use serde_json::json;

use crate::publisher::support::{
    NO_RIGHT_TO_ALTER, Relay, STREAM, age, execute, last_seq, message, messages, owner_of,
    published, purgeable, row, shown, stream, thing,
};

const IDS: [&str; 5] = ["1", "2", "3", "4", "5"];

/// An owner of [`IDS`], of which `5` is deleted. All changes are old.
async fn long_ago(nats: &Nats) -> Owner {
    let owner = owner_of(&nats.broker("things").await, &IDS).await;
    owner.delete("5").await;
    published(&owner.db).await;
    age(&owner.db).await;
    owner
}

/// Waits until everything is back, including the tombstone.
async fn filled_up(nats: &Nats, owner: &Owner) {
    shown(nats, &owner.db).await;
    assert_eq!(messages(nats).await.len(), IDS.len());
    assert_eq!(message(nats, "5").await.change(), "deleted");
}

#[tokio::test]
async fn a_stream_deleted_under_the_relay_is_made_again_and_filled_tombstones_included() {
    let nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    let before = stream(&nats).await.get_info().await.unwrap();
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    filled_up(&nats, &owner).await;
    let after = stream(&nats).await.get_info().await.unwrap();
    assert_ne!(before.created, after.created);
    assert_eq!(before.config, after.config);
    assert_eq!(before.config.subjects, config(&thing()).subjects);
}

#[tokio::test]
async fn a_change_right_after_the_stream_was_deleted_does_not_wait_for_the_next_look_at_it() {
    let nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    nats.jetstream().await.delete_stream(STREAM).await.unwrap();
    owner.put("1", json!({})).await;
    filled_up(&nats, &owner).await;
}

#[tokio::test]
async fn a_broker_that_comes_back_empty_is_filled_up_again() {
    let mut nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    nats.kill();
    std::fs::remove_dir_all(nats.store_dir().join("jetstream")).unwrap();
    nats.restart().await;
    filled_up(&nats, &owner).await;
}

#[tokio::test]
async fn a_broker_that_went_back_to_an_older_state_is_brought_up_to_date() {
    let mut nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    nats.kill();
    let backup = nats.back_up();
    nats.restart().await;
    let seq = row(&owner.db, "1").await.published_seq;
    for id in ["2", "3", "5"] {
        owner.put(id, json!({ "newer": true })).await;
    }
    owner.delete("4").await;
    shown(&nats, &owner.db).await;
    age(&owner.db).await;
    nats.kill();
    nats.put_back(backup);
    nats.restart().await;
    shown(&nats, &owner.db).await;
    assert_eq!(message(&nats, "4").await.change(), "deleted");
    assert_eq!(message(&nats, "1").await.seq, seq, "what was not lost stays as it was");
}

/// As long as before, or longer, and no emptier: only the last messages are not at their sequences.
#[tokio::test]
async fn a_broker_that_went_back_and_was_filled_up_by_others_is_brought_up_to_date() {
    for others in [3, 9] {
        let mut nats = Nats::start().await;
        let owner = Owner::start_silent().await;
        let broker = nats.broker("things").await;
        owner.put_all(&IDS.map(|id| (id, json!({})))).await;
        let relay = Relay::start(&owner.db, &broker).await;
        published(&owner.db).await;
        relay.stop().await;
        nats.kill();
        let backup = nats.back_up();
        nats.restart().await;
        let relay = Relay::start(&owner.db, &broker).await;
        // The last messages are at sequences that others will use, so none would be beyond the end.
        for id in ["2", "3", "5"] {
            owner.put(id, json!({ "newer": true })).await;
        }
        shown(&nats, &owner.db).await;
        relay.stop().await;
        age(&owner.db).await;
        nats.kill();
        nats.put_back(backup);
        nats.restart().await;
        let wire = Wire::open(&nats).await;
        for _ in 0..others {
            wire.announce("1", Some("1")).await;
        }
        let _relay = Relay::start(&owner.db, &broker).await;
        shown(&nats, &owner.db).await;
    }
}

#[tokio::test]
async fn a_stream_emptied_under_the_relay_is_filled_up_again() {
    let nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
    purgeable(&nats).await;
    let owner = long_ago(&nats).await;
    let before = last_seq(&nats).await;
    stream(&nats).await.purge().await.unwrap();
    filled_up(&nats, &owner).await;
    assert!(last_seq(&nats).await > before, "it is still the same stream");
}

#[tokio::test]
async fn a_stream_that_lost_a_message_while_no_relay_ran_is_filled_up_at_the_next_start() {
    let nats = Nats::start_with(Some(NO_RIGHT_TO_ALTER)).await;
    purgeable(&nats).await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    owner.put_all(&IDS.map(|id| (id, json!({})))).await;
    owner.delete("5").await;
    published(&owner.db).await;
    // The sixteen that were published last are checked in any case.
    for n in 0..20 {
        owner.put(&format!("later-{n}"), json!({})).await;
    }
    published(&owner.db).await;
    age(&owner.db).await;
    relay.stop().await;
    let purge = stream(&nats).await;
    purge.purge().filter("changes.thing.3").await.unwrap();
    let _relay = Relay::start(&owner.db, &broker).await;
    shown(&nats, &owner.db).await;
    assert_eq!(message(&nats, "5").await.change(), "deleted");
}

#[tokio::test]
async fn a_stream_made_anew_by_somebody_else_is_filled_though_it_looks_full() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    owner.put_all(&IDS.map(|id| (id, json!({})))).await;
    owner.delete("5").await;
    published(&owner.db).await;
    age(&owner.db).await;
    relay.stop().await;
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream(STREAM).await.unwrap();
    purgeable(&nats).await;
    for id in IDS.iter().cycle().take(3 * IDS.len()) {
        let subject = format!("changes.thing.{id}");
        let foreign = jetstream.publish(subject, "{}".into()).await.unwrap();
        foreign.await.unwrap();
    }
    let _relay = Relay::start(&owner.db, &broker).await;
    eventually("the notifications are the owner's", || async {
        let messages = messages(&nats).await;
        messages.iter().all(|message| message.headers.len() == 1).then_some(())
    })
    .await;
    filled_up(&nats, &owner).await;
}

#[tokio::test]
async fn a_place_recorded_for_a_stream_that_is_gone_does_not_hold_up_the_next() {
    let mut nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    nats.kill();
    std::fs::remove_dir_all(nats.store_dir().join("jetstream")).unwrap();
    // A relay made the row pending on one connection, but could not publish it any more.
    execute(
        &owner.db,
        "UPDATE nudge_change_log SET published_version = 0, published_seq = 10000000 WHERE id = '1'",
    )
    .await;
    nats.restart().await;
    filled_up(&nats, &owner).await;
    assert!(last_seq(&nats).await < 100, "it was published again and again");
}

/// The server has run all the time, so everything in the stream is still there.
#[tokio::test]
async fn an_owner_that_starts_again_publishes_nothing_that_is_there() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    let broker = nats.broker("things").await;
    let relay = Relay::start(&owner.db, &broker).await;
    for id in IDS {
        owner.put(id, json!({})).await;
    }
    published(&owner.db).await;
    relay.stop().await;
    owner.put("fresh", json!({})).await;
    for _ in 0..2 {
        let relay = Relay::start(&owner.db, &nats.broker("things").await).await;
        published(&owner.db).await;
        relay.stop().await;
    }
    shown(&nats, &owner.db).await;
    assert_eq!(last_seq(&nats).await, IDS.len() as u64 + 1);
}

#[tokio::test]
async fn an_acknowledgement_of_another_stream_counts_for_nothing() {
    let nats = Nats::start().await;
    let owner = long_ago(&nats).await;
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream(STREAM).await.unwrap();
    let mut foreign = config(&thing());
    foreign.name = "SOMEBODY_ELSES".to_owned();
    jetstream.create_stream(foreign).await.unwrap();
    owner.put("1", json!({})).await;
    eventually("the relay is refused", || async {
        let health = owner.publisher.health();
        (!health.connected && health.pending == 1).then_some(())
    })
    .await;
    jetstream.delete_stream("SOMEBODY_ELSES").await.unwrap();
    filled_up(&nats, &owner).await;
}
