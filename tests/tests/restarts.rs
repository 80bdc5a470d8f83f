//! Programs and brokers stop and crash at any point: nothing is lost, and nothing stays half done.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use nudge_tests::{Copy, Fault, Nats, Owner, QUIET, ReadModel, Wire, eventually};
use serde_json::json;
use tokio::{runtime::Runtime, task::block_in_place};
use tokio_util::sync::CancellationToken;

/// A read model whose messages are redelivered soon if nobody acknowledges them.
async fn impatient() -> ReadModel {
    let mut model = ReadModel::new().await;
    model.settings.ack_wait = Duration::from_secs(1);
    model
}

/// The equivalent of a separate program for a crash: its tasks and connections end with it.
struct Program(Runtime);

impl Program {
    async fn start(nats: &Nats, owner: &Owner, model: ReadModel) -> (Self, Copy) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let run = async { model.start(&nats.broker("copies").await, owner).await };
        let copy = block_in_place(|| runtime.block_on(run));
        (Self(runtime), copy)
    }

    /// Kills it, whatever it is doing.
    fn crash(self) {
        self.0.shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_commit_loses_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let model = impatient().await;
    let (program, copy) = Program::start(&nats, &owner, model.clone()).await;
    let old = owner.put("42", json!("old")).await;
    wire.notify(&old).await;
    copy.wait(&old).await;
    let held = copy.hold();
    wire.notify(&owner.put("42", json!("new")).await).await;
    eventually("apply has begun", || async { held.begun().then_some(()) }).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(wire.unacknowledged("copies").await, 1, "not before the commit");
    program.crash();
    let db = model.open().await;
    let body = sqlx::query_as("SELECT body FROM copy WHERE id = '42'").fetch_one(db.reader());
    let (body,): (String,) = body.await.expect("read");
    assert_eq!(body, "\"old\"", "nothing of it is committed");
    db.close().await;
    held.end();
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_waits_for_another_try_when_the_program_stops_comes_again() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut model = impatient().await;
    model.settings.max_attempts_in_memory = u32::MAX;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    owner.misbehave(|ids| ids.contains(&"42".into()).then_some(Fault::Status(500, None)));
    wire.notify(&owner.put("42", json!("new")).await).await;
    eventually("it failed more than once", || async {
        (owner.times_asked("42") > 1).then_some(())
    })
    .await;
    let model = copy.stop().await;
    assert_eq!(wire.unacknowledged("copies").await, 1);
    owner.behave();
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_commit_and_acknowledgement_is_harmless() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut model = impatient().await;
    let (committed, commits) = mpsc::sync_channel(1);
    model.after_commit(move || {
        let _ = committed.send(());
        // Here the program hangs, and never reaches the acknowledgement.
        loop {
            std::thread::park();
        }
    });
    let (program, copy) = Program::start(&nats, &owner, model.clone()).await;
    owner.put("42", json!("new")).await;
    block_in_place(|| commits.recv()).expect("a commit");
    program.crash();
    model.after_commit(|| ());
    let again = model.start(&nats.broker("copies").await, &owner).await;
    eventually("it is redelivered, found to be applied, and acknowledged", || async {
        let ignored = again.metric("nudge_ignored_total").await;
        (ignored > 0 && wire.unacknowledged("copies").await == 0).then_some(())
    })
    .await;
    again.converged(&owner).await;
    assert_eq!(copy.applied().len(), 1, "apply ran once, in the program that crashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_finishes_what_is_under_way_and_leaves_the_rest() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let gate = CancellationToken::new();
    let held = gate.clone();
    owner.misbehave(move |_| Some(Fault::Until(held.clone())));
    let mut model = impatient().await;
    (model.settings.max_batches_in_flight, model.settings.max_batch_keys) = (1, 5);
    let (program, copy) = Program::start(&nats, &owner, model.clone()).await;
    for n in 0..20 {
        wire.notify(&owner.put(&format!("thing-{n:02}"), json!(n)).await).await;
    }
    eventually("a batch is under way and the rest is queued", || async {
        let status = copy.status().await;
        let (processing, queued) = (status["processing"].as_u64()?, status["queued"].as_u64()?);
        (processing > 0 && processing + queued == 20).then_some(())
    })
    .await;
    copy.begin_to_stop();
    let stopping = || async { (!copy.subscriber.is_ready()).then_some(()) };
    eventually("it is stopping", stopping).await;
    let subscriber = copy.subscriber.clone();
    drop(copy);
    gate.cancel();
    subscriber.stopped().await;
    // A program ends right here, and its connection with it.
    drop(subscriber);
    program.crash();
    let asked: Vec<String> = owner.asked().concat();
    assert!(!asked.is_empty() && asked.len() <= 5, "one batch: {asked:?}");
    let db = model.open().await;
    let finished = "SELECT count(*) FROM copy";
    let (finished,): (i64,) = sqlx::query_as(finished).fetch_one(db.reader()).await.expect("read");
    db.close().await;
    assert_eq!(finished, asked.len() as i64, "what was under way is finished");
    eventually("that is acknowledged, and nothing else", || async {
        (wire.unacknowledged("copies").await == 20 - asked.len()).then_some(())
    })
    .await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_not_held_up_by_a_broker_that_is_gone() {
    let mut nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let ids: Vec<_> = (0..4_000).map(|n| format!("thing-{n:05}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(0))).collect();
    owner.put_all(&things).await;
    eventually("all is published", || async {
        (wire.last_sequence().await >= 4_000).then_some(())
    })
    .await;
    // More messages are held than acknowledgements fit into the connection's buffer.
    owner.misbehave(|_| Some(Fault::Hang));
    let mut model = impatient().await;
    model.settings.stop_deadline = Duration::from_millis(100);
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    eventually("thousands are held", || async {
        (copy.status().await["queued"].as_u64()? > 2_500).then_some(())
    })
    .await;
    nats.kill();
    eventually("the subscriber has noticed", || async {
        (copy.status().await["connected"] == false).then_some(())
    })
    .await;
    let stopped = tokio::time::timeout(Duration::from_secs(60), copy.stop()).await;
    stopped.expect("it stops all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_crashes_in_the_middle_loses_nothing() {
    let mut nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut model = impatient().await;
    model.settings.max_batch_keys = 10;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let owner = Arc::new(owner);
    let writer = tokio::spawn({
        let owner = owner.clone();
        async move {
            for n in 0..600 {
                owner.put(&format!("thing-{}", n % 200), json!(n)).await;
            }
        }
    });
    for _ in 0..2 {
        let so_far = copy.applied().len();
        eventually("some more is applied", || async {
            (copy.applied().len() > so_far + 20 || writer.is_finished()).then_some(())
        })
        .await;
        nats.kill();
        eventually("the subscriber has noticed", || async {
            (copy.status().await["connected"] == false).then_some(())
        })
        .await;
        nats.restart().await;
    }
    writer.await.expect("writes do not mind");
    copy.converged(&owner).await;
    copy.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_starts_first_waits_for_broker_owner_and_stream() {
    let mut nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    owner.put("42", json!("there")).await;
    owner.go_away().await;
    nats.kill();
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let waits = |what: &'static str| {
        let copy = &copy;
        async move {
            eventually(what, || async {
                let error = copy.status().await["last_error"].as_str()?.to_owned();
                error.starts_with("intake").then_some(())
            })
            .await;
            assert!(!copy.subscriber.is_ready());
        }
    };
    waits("it waits for the broker").await;
    nats.restart().await;
    waits("it waits for the stream").await;
    owner.come_back().await;
    owner.second_relay(&nats.broker("things").await);
    copy.converged(&owner).await;
    eventually("it is ready", || async { copy.subscriber.is_ready().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_from_before_the_broker_went_back_takes_no_other_message_with_it() {
    let mut nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    wire.notify(&owner.put("first", json!(1)).await).await;
    copy.converged(&owner).await;
    nats.kill();
    let backup = nats.back_up();
    nats.restart().await;
    // One gate for each: the callbacks are in progress when the messages are delivered.
    let gates = [("a", CancellationToken::new()), ("b", CancellationToken::new())];
    let held = gates.clone();
    owner.misbehave(move |ids| {
        let gate = held.iter().find(|(id, _)| ids.iter().any(|asked| asked == id));
        gate.map(|(_, gate)| Fault::Until(gate.clone()))
    });
    wire.notify(&owner.put("a", json!(1)).await).await;
    eventually("a is asked for", || async { (owner.times_asked("a") > 0).then_some(()) }).await;
    let before = wire.last_sequence().await;
    nats.kill();
    nats.put_back(backup);
    nats.restart().await;
    let b = owner.put("b", json!(1)).await;
    eventually("b takes the place of a", || async {
        wire.notify(&b).await;
        (wire.last_sequence().await >= before).then_some(())
    })
    .await;
    eventually("b is asked for", || async { (owner.times_asked("b") > 0).then_some(()) }).await;
    let waiting = wire.unacknowledged("copies").await;
    let [(_, a_gate), (_, b_gate)] = gates;
    a_gate.cancel();
    eventually("a is applied", || async {
        copy.all().await.iter().any(|(id, _)| id == "a").then_some(())
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(wire.unacknowledged("copies").await, waiting, "b is not handled yet");
    b_gate.cancel();
    copy.converged(&owner).await;
}
