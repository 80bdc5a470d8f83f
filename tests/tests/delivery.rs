//! Callbacks and notifications overtake one another, and replicas share the work. Every copy still ends in the owner's
//! state, and no callback is wasted.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use nudge_protocol::EntityName;
use nudge_runtime::{BoxError, Tx};
use nudge_subscriber_kit::{Apply, EntityState, Settings, Subscriber};
use nudge_tests::{
    Copy, Fault, Nats, Owner, PATIENCE, QUIET, ReadModel, Wire,
    copy::{Keep, quick},
    eventually,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Makes the first callback that asks for `id` answer the present state, but only once the returned token is cancelled.
fn hold_first_answer(owner: &Owner, id: &'static str) -> CancellationToken {
    let (gate, first) = (CancellationToken::new(), AtomicUsize::new(1));
    let held = gate.clone();
    owner.misbehave(move |ids| {
        let first = ids.iter().any(|asked| asked == id) && first.swap(0, Ordering::SeqCst) == 1;
        first.then(|| Fault::Until(held.clone()))
    });
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_answer_that_arrives_last_does_not_win() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let gate = hold_first_answer(&owner, "42");
    // However slow the machine is, nobody gives up waiting for the answer.
    let patient = Settings { fetch_timeout: PATIENCE * 5, ..quick() };
    let one = Copy::start_with(&nats.broker("copies").await, &owner, patient).await;
    let two = one.replica(&nats.broker("copies").await, &owner).await;
    // Both are listening, since the later one would look at what the other is working on.
    one.quiet().await;
    two.quiet().await;
    let old = owner.put("42", json!("old")).await.version.get();
    eventually("one replica has an answer under way", || async {
        (owner.times_asked("42") > 0).then_some(())
    })
    .await;
    let slow = eventually("the other replica applies a newer one", || async {
        owner.put("42", json!("new")).await;
        let applied = (!one.applied().is_empty(), !two.applied().is_empty());
        applied.0.then_some(&two).or(applied.1.then_some(&one))
    })
    .await;
    gate.cancel();
    eventually("the old answer is found to be old", || async {
        (slow.metric("nudge_ignored_total").await > 0).then_some(())
    })
    .await;
    for replica in [&one, &two] {
        assert!(!replica.applied().contains(&("42".into(), old)), "the old state was applied");
        replica.converged(&owner).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_a_callback_lead_to_exactly_one_more() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let gate = hold_first_answer(&owner, "42");
    for received in 1..=10 {
        wire.notify(&owner.put("42", json!(received)).await).await;
        eventually("the notification is received", || async {
            (copy.metric("nudge_received_total").await == received).then_some(())
        })
        .await;
    }
    assert_eq!(owner.times_asked("42"), 1, "a key is never in two runs at once");
    gate.cancel();
    copy.converged(&owner).await;
    copy.quiet().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(owner.times_asked("42"), 2, "nine notifications share one callback");
}

/// While an owner is slow, and while a key waits for its next attempt, the broker is told that the message is in
/// progress. The message of a run that hangs is still redelivered to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_the_broker_waits_is_not_delivered_again() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut settings = Settings { ack_wait: Duration::from_secs(1), ..quick() };
    settings.retry.initial = settings.ack_wait * 6;
    settings.retry.max = settings.retry.initial;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let gate = hold_first_answer(&owner, "42");
    wire.notify(&owner.put("42", json!("slow")).await).await;
    eventually("it is asked for", || async { (owner.times_asked("42") == 1).then_some(()) }).await;
    tokio::time::sleep(settings.ack_wait * 3).await;
    let received = || copy.metric("nudge_received_total");
    assert_eq!(received().await, 1, "its callback was under way");
    eventually("it is given to others", || async { (received().await > 1).then_some(()) }).await;
    gate.cancel();
    copy.converged(&owner).await;
    eventually("it is acknowledged", || async {
        (wire.unacknowledged("copies").await == 0).then_some(())
    })
    .await;
    let before = received().await;
    owner.misbehave(|ids| (!ids.is_empty()).then_some(Fault::Status(500, None)));
    wire.notify(&owner.put("42", json!("fails")).await).await;
    eventually("it waits for its next try", || async {
        (copy.status().await["retrying"] == 1).then_some(())
    })
    .await;
    tokio::time::sleep(settings.ack_wait * 2).await;
    assert_eq!(received().await, before + 1, "it waited for its next try");
    owner.behave();
    copy.converged(&owner).await;
    assert_eq!(received().await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_deleted_and_created_again_during_a_callback_ends_as_it_is() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let received = async |count: u64| {
        eventually("the notification is received", || async {
            (copy.metric("nudge_received_total").await == count).then_some(())
        })
        .await;
    };
    let gate = hold_first_answer(&owner, "42");
    for count in 1..=3 {
        let token = match count {
            2 => owner.delete("42").await,
            _ => owner.put("42", json!(count)).await,
        };
        wire.notify(&token).await;
        received(count).await;
    }
    gate.cancel();
    copy.converged(&owner).await;
    assert_eq!(copy.body("42").await, Some(json!(3)));
    for body in [None, Some(json!(4)), None] {
        let token = match &body {
            None => owner.delete("42").await,
            Some(body) => owner.put("42", body.clone()).await,
        };
        wire.notify(&token).await;
        copy.wait(&token).await;
        assert_eq!(copy.body("42").await, body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_created_and_deleted_before_anyone_looked_leaves_a_tombstone() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.put("42", json!("short-lived")).await;
    let gone = owner.delete("42").await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.wait(&gone).await;
    copy.quiet().await;
    let applied = copy.get("applied/thing/42").await;
    assert_eq!(applied["deleted"], true);
    assert_eq!(applied["version"], gone.version.get());
    assert!(copy.all().await.is_empty());
    assert_eq!(copy.get("dead-letters").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_the_work_and_miss_nothing() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let one = Copy::start(&nats.broker("copies").await, &owner).await;
    let two = one.replica(&nats.broker("copies").await, &owner).await;
    one.quiet().await;
    two.quiet().await;
    let mut n = 0;
    eventually("both replicas work", || {
        n += 1;
        let (owner, one, two) = (&owner, &one, &two);
        async move {
            let ids: Vec<_> = (0..20).map(|m| format!("thing-{n}-{m}")).collect();
            let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(n))).collect();
            owner.put_all(&things).await;
            (!one.applied().is_empty() && !two.applied().is_empty()).then_some(())
        }
    })
    .await;
    one.converged(&owner).await;
    let (mut all, count) = ([one.applied(), two.applied()].concat(), owner.all().await.len());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "each thing was applied");
    assert_eq!(one.applied().len() + two.applied().len(), count, "and applied once");
    assert_eq!(owner.asked().concat().len(), count, "and asked for once");
}

#[derive(serde::Deserialize)]
struct Label {
    thing: String,
    text: String,
}

/// The second entity of a subscriber: writes its own table, and a row of the first one's.
struct Labels;

impl Apply for Labels {
    type State = Label;

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Label>]) -> Result<(), BoxError> {
        for label in entities.iter().filter_map(|entity| entity.state.as_ref()) {
            let sql = "INSERT INTO labelled VALUES ($1, $2) \
                       ON CONFLICT (thing) DO UPDATE SET label = excluded.label";
            let query = sqlx::query(sql).bind(label.thing.clone()).bind(label.text.clone());
            query.execute(&mut **tx).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_subscriber_follows_entities_of_several_owners_and_one_owner_may_fail() {
    let nats = Nats::start().await;
    let things = Owner::start(&nats.broker("things").await).await;
    let labels = Owner::start_silent_of("label").await;
    labels.second_relay(&nats.broker("labels").await);
    let model = ReadModel::new().await;
    let db = model.open().await;
    let table = "CREATE TABLE labelled (thing TEXT PRIMARY KEY, label TEXT NOT NULL)";
    sqlx::query(table).execute(db.reader()).await.expect("a table");
    let stop = CancellationToken::new();
    let both = Subscriber::builder("both", &db, &nats.broker("both").await)
        .follow("thing", &things.url(), Keep::default())
        .follow("label", &labels.url(), Labels)
        .settings(quick())
        .start(stop.clone())
        .await
        .expect("it starts");
    let joined = |name: &'static str, label: &'static str| {
        let db = db.clone();
        move || {
            let db = db.clone();
            async move {
                let sql = "SELECT count(*) FROM copy JOIN labelled ON thing = id \
                           WHERE body = $1 AND label = $2";
                let query = sqlx::query_as(sql).bind(json!(name).to_string()).bind(label);
                let (count,): (i64,) = query.fetch_one(db.reader()).await.expect("a count");
                (count == 1).then_some(())
            }
        }
    };
    things.put("42", json!("가")).await;
    labels.put("l1", json!({"thing": "42", "text": "new"})).await;
    eventually("both are followed", joined("가", "new")).await;
    labels.misbehave(|_| Some(Fault::Status(503, None)));
    labels.put("l1", json!({"thing": "42", "text": "newer"})).await;
    things.put("42", json!("나")).await;
    eventually("one owner's failure is its own", joined("나", "new")).await;
    labels.behave();
    eventually("the other one comes back", joined("나", "newer")).await;
    stop.cancel();
    both.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_or_a_stream_deleted_under_it_is_made_again() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put("before", json!(1)).await;
    copy.converged(&owner).await;
    let (jetstream, wire) = (nats.jetstream().await, Wire::open(&nats).await);
    let name = nudge_protocol::subject::stream_name(&EntityName::new("thing").expect("a name"));
    let stream = jetstream.get_stream(&name).await.expect("the stream");
    stream.delete_consumer(&wire.consumer("copies").await).await.expect("deleted");
    owner.put("between", json!(2)).await;
    copy.converged(&owner).await;
    jetstream.delete_stream(&name).await.expect("deleted");
    owner.put("after", json!(3)).await;
    copy.converged(&owner).await;
    copy.quiet().await;
}

/// Whoever changes many things goes on doing so: a subscriber waits a moment, and asks for more of them at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_changes_costs_the_owner_few_callbacks() {
    const AT_A_TIME: usize = 50;
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("first", json!(0)).await).await;
    let (began, calls) = (Instant::now(), owner.calls());
    let mut changes = 0;
    for _ in 0..100 {
        let ids: Vec<_> = (changes..changes + AT_A_TIME).map(|n| n.to_string()).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
        owner.put_all(&things).await;
        changes += AT_A_TIME;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    copy.converged(&owner).await;
    let (calls, elapsed) = (owner.calls() - calls, began.elapsed().as_millis() as usize);
    // One in 25 ms, one for each full batch, and those at the ends.
    let most = elapsed / 25 + changes / 256 + 5;
    assert!(calls <= most, "{calls} callbacks in {elapsed} ms for {changes} changes");
}
