//! Two relays of one owner, one of which is slow.

use nudge_runtime::Broker;
use nudge_tests::{Line, Nats, Owner, Way, broker_by, eventually, line_to};
use serde_json::json;

use crate::publisher::support::{
    Relay, age, compared, last_seq, message, messages, owner_of, published, row, shown,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_at_once_end_with_every_entity_at_its_newest_version() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("one").await).await;
    let _other = Relay::start(&owner.db, &nats.broker("two").await).await;
    owner.second_relay(&nats.broker("three").await);
    let edits = |part: usize| {
        let owner = &owner;
        async move {
            for n in 0..150 {
                let id = (n % 10 * 3 + part).to_string();
                owner.put(&id, json!({ "n": n })).await;
                if n % 4 == 0 {
                    owner.delete(&id).await;
                }
            }
        }
    };
    tokio::join!(edits(0), edits(1), edits(2));
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 30);
}

/// An owner of `42` whose relay reaches the server over a line that can be slow.
async fn slow_owner(nats: &Nats) -> (Owner, Line) {
    let line = line_to(nats.port()).await;
    let broker = broker_by(&line, "slow").await;
    (owner_of(&broker, &["42"]).await, line)
}

/// Publishes pending rows through a relay that is not slow.
async fn publish_by_another(nats: &Nats, owner: &Owner) {
    let relay = Relay::start(&owner.db, &nats.broker("quick").await).await;
    published(&owner.db).await;
    relay.stop().await;
}

async fn sent(line: &Line, version: u64) {
    eventually("the slow relay publishes", || async {
        line.said(Way::There).contains(&format!("Nudge-Version: {version}")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_old_version_published_over_a_newer_one_is_followed_by_the_newer() {
    let nats = Nats::start().await;
    let (owner, line) = slow_owner(&nats).await;
    line.hold(Way::There);
    let old = owner.put("42", json!({ "n": 1 })).await.version.get();
    sent(&line, old).await;
    let new = owner.put("42", json!({ "n": 2 })).await.version.get();
    publish_by_another(&nats, &owner).await;
    let before = row(&owner.db, "42").await;
    assert_eq!(before.published_version, new);
    assert_eq!(message(&nats, "42").await.version(), new);
    line.release();
    eventually("the newer one follows", || async {
        let message = message(&nats, "42").await;
        (message.seq >= before.published_seq + 2 && message.version() == new).then_some(())
    })
    .await;
    shown(&nats, &owner.db).await;
}

#[tokio::test]
async fn a_late_acknowledgement_of_an_older_message_changes_nothing() {
    let nats = Nats::start().await;
    let (owner, line) = slow_owner(&nats).await;
    line.hold(Way::Back);
    let old = owner.put("42", json!({ "n": 1 })).await.version.get();
    eventually("the slow relay publishes", || async {
        (message(&nats, "42").await.version() == old).then_some(())
    })
    .await;
    owner.put("42", json!({ "n": 2 })).await;
    publish_by_another(&nats, &owner).await;
    let before = row(&owner.db, "42").await;
    line.release();
    // The slow relay publishes this after it has marked with that acknowledgement.
    owner.put("next", json!({})).await;
    published(&owner.db).await;
    assert_eq!(row(&owner.db, "42").await, before);
    assert_eq!(last_seq(&nats).await, before.published_seq + 1, "42 is published once more");
    shown(&nats, &owner.db).await;
}

#[tokio::test]
async fn a_publish_of_unknown_outcome_is_followed_by_the_newest_version() {
    let nats = Nats::start().await;
    let (owner, line) = slow_owner(&nats).await;
    line.hold(Way::There);
    let old = owner.put("42", json!({ "n": 1 })).await.version.get();
    sent(&line, old).await;
    let new = owner.put("42", json!({ "n": 2 })).await.version.get();
    publish_by_another(&nats, &owner).await;
    let before = row(&owner.db, "42").await;
    eventually("the slow relay gives up waiting for its acknowledgement", || async {
        (!owner.publisher.health().connected).then_some(())
    })
    .await;
    // Only now the old message arrives, and nobody marks it.
    line.release();
    eventually("the newest version is in the stream again", || async {
        let message = message(&nats, "42").await;
        (message.seq > before.published_seq && message.version() == new).then_some(())
    })
    .await;
    shown(&nats, &owner.db).await;
}

/// Waits until the newest version is in the stream beyond this sequence.
async fn newest_again(nats: &Nats, owner: &Owner, beyond: u64) {
    let newest = row(&owner.db, "42").await.version;
    eventually("the newest version is in the stream again", || async {
        let message = message(nats, "42").await;
        (message.seq > beyond && message.version() == newest).then_some(())
    })
    .await;
    shown(nats, &owner.db).await;
}

/// An old version that is in transit while its relay is gone and a newer one is recorded.
async fn old_version_under_way(nats: &Nats) -> (Owner, Line, Broker, Relay) {
    let owner = Owner::start_silent().await;
    let line = line_to(nats.port()).await;
    let broker = broker_by(&line, "slow").await;
    let slow = Relay::start(&owner.db, &broker).await;
    owner.put("first", json!({})).await;
    published(&owner.db).await;
    compared(&slow.publisher).await;
    line.hold(Way::There);
    let old = owner.put("42", json!({ "n": 1 })).await.version.get();
    sent(&line, old).await;
    slow.stop().await;
    owner.put("42", json!({ "n": 2 })).await;
    let quick = Relay::start(&owner.db, &nats.broker("quick").await).await;
    published(&owner.db).await;
    (owner, line, broker, quick)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_when_its_relay_is_gone_is_followed_by_the_newest_version() {
    let nats = Nats::start().await;
    let (owner, line, _broker, _quick) = old_version_under_way(&nats).await;
    let before = row(&owner.db, "42").await;
    line.release();
    newest_again(&nats, &owner, before.published_seq + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_while_no_relay_runs_is_followed_by_the_newest_version_when_one_does() {
    let nats = Nats::start().await;
    let (owner, line, _broker, quick) = old_version_under_way(&nats).await;
    let before = row(&owner.db, "42").await;
    quick.stop().await;
    line.release();
    eventually("it arrives", || async {
        (last_seq(&nats).await > before.published_seq).then_some(())
    })
    .await;
    // Not because it changed recently.
    age(&owner.db).await;
    let _next = Relay::start(&owner.db, &nats.broker("next").await).await;
    newest_again(&nats, &owner, before.published_seq + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_publishes_is_followed_by_the_newest_version() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("owner").await).await;
    let old = owner.put("42", json!({ "n": 1 })).await.version;
    let new = owner.put("42", json!({ "n": 2 })).await.version.get();
    published(&owner.db).await;
    let foreign = nats.jetstream().await;
    // The last is the highest version possible: if it were believed, the owner would have none left.
    let highest = ((1_u64 << 53) - 1).to_string();
    for version in [Some(old.to_string()), None, Some("x".to_owned()), Some(highest)] {
        let mut headers = async_nats::HeaderMap::new();
        version.iter().for_each(|version| headers.insert("Nudge-Version", version.as_str()));
        let publish = foreign.publish_with_headers("changes.thing.42", headers, "?".into());
        let sequence = publish.await.unwrap().await.unwrap().sequence;
        newest_again(&nats, &owner, sequence).await;
        assert_eq!(row(&owner.db, "42").await.version, new);
    }
}
