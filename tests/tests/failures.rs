//! Owners fail in every possible way. A failing owner does not count against any key, and a key that makes the owner
//! fail does not affect others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nudge_runtime::breaker::{FAILURES_TO_OPEN, FIRST_PAUSE, MAX_PAUSE};
use nudge_tests::{Copy, Fault, Nats, Owner, QUIET, Wire, copy::quick, eventually};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Number of things that change while an owner is down.
const CHANGED: usize = 1_000;
/// Number of batches that need not be full: the one in progress when the owner went down, and the last.
const A_FEW: usize = 2;

async fn breaker(copy: &Copy, standing: &'static str) -> Value {
    eventually(&format!("the breaker is {standing}"), || async {
        let status = copy.status().await;
        (status["breaker"] == standing).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_fails_as_a_whole_costs_no_key_an_attempt() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut settings = quick();
    settings.fetch_timeout = Duration::from_millis(300);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let faults = [
        Fault::Status(401, None),
        Fault::Status(403, None),
        Fault::Status(404, None),
        Fault::Status(408, None),
        Fault::Status(410, None),
        Fault::Status(429, None),
        Fault::Status(500, None),
        Fault::Status(501, None),
        Fault::Status(502, None),
        Fault::Status(503, None),
        Fault::Status(503, Some(0)),
        Fault::Status(504, None),
        Fault::Status(302, None),
        Fault::Body("<html>so sorry</html>"),
        Fault::Half,
        Fault::Hang,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        let given = fault.clone();
        owner.misbehave(move |_| Some(given.clone()));
        owner.put(&format!("thing-{n}"), json!(n)).await;
        let status = breaker(&copy, "open").await;
        assert_eq!(status["retrying"], 0, "{fault:?}");
        assert_eq!(status["parked"], 0, "{fault:?}");
        assert_eq!(status["dead_letters"], 0, "{fault:?}");
        assert!(status["last_error"].is_string(), "{fault:?}");
        owner.behave();
        copy.converged(&owner).await;
        breaker(&copy, "closed").await;
    }
}

/// Maximum number of probes by one subscriber of an owner that is down for this long.
fn most_probes(down: Duration) -> usize {
    let (mut pause, mut at, mut probes) = (FIRST_PAUSE, FIRST_PAUSE, 0);
    while at <= down {
        probes += 1;
        pause = (pause * 2).min(MAX_PAUSE);
        at += pause;
    }
    probes
}

/// While the owner is away, many things change. Each subscriber asks for no key and rarely probes; once the owner is
/// back, each asks for the changes in full batches.
async fn an_owner_that_is_down_is_left_alone(subscribers: usize) {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut copies = Vec::new();
    for _ in 0..subscribers {
        let copy = Copy::start(&nats.broker("copies").await, &owner).await;
        eventually("it is ready", || async { copy.subscriber.is_ready().then_some(()) }).await;
        copies.push(copy);
    }
    let down = Instant::now();
    owner.misbehave(|_| Some(Fault::Status(503, None)));
    let things: Vec<_> = (0..CHANGED).map(|n| format!("thing-{n}")).collect();
    let things: Vec<_> = things.iter().map(|id| (id.as_str(), json!("changed"))).collect();
    for token in owner.put_all(&things).await {
        wire.notify(&token).await;
    }
    let in_flight = quick().max_batches_in_flight;
    for copy in &copies {
        let before = breaker(copy, "open").await["callbacks"].as_u64();
        let at_most = FAILURES_TO_OPEN as usize + in_flight;
        assert!(before <= Some(at_most as u64), "{before:?}");
    }
    eventually("each has probed twice", || async {
        (owner.probes() >= 2 * subscribers).then_some(())
    })
    .await;
    // In addition, each failed call leads to one probe.
    let failed = FAILURES_TO_OPEN as usize + in_flight;
    let (calls, probes) = (owner.calls(), owner.probes());
    let at_most = most_probes(down.elapsed()) + failed;
    assert!(probes <= at_most * subscribers, "{probes} probes, {at_most} at most by each");
    owner.go_away().await;
    tokio::time::sleep(QUIET).await;
    for copy in &copies {
        let status = copy.status().await;
        assert_eq!(status["retrying"], 0);
        assert!(copy.subscriber.is_ready(), "it serves what it has");
    }
    assert_eq!(owner.calls(), calls, "no key is asked for while it is open");
    let probes = owner.probes();
    owner.behave();
    owner.come_back().await;
    for copy in &copies {
        copy.converged(&owner).await;
        copy.quiet().await;
        copy.dead_letters(0).await;
        assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0);
    }
    let (calls, probes) = (owner.calls() - calls, owner.probes() - probes);
    let at_most = CHANGED.div_ceil(quick().max_batch_keys) + in_flight + A_FEW;
    assert!(calls <= at_most * subscribers, "{calls} calls, {at_most} at most by each");
    assert_eq!(probes, subscribers, "each asks once whether it is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_down_is_left_alone_until_it_is_back() {
    an_owner_that_is_down_is_left_alone(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_down_is_left_alone_by_each_of_its_subscribers() {
    an_owner_that_is_down_is_left_alone(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_made_before_retry_after_has_passed() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut settings = quick();
    settings.max_batch_keys = 1;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    // One callback is in progress, and will succeed, when another one is told to wait.
    let (gate, times) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let (held, calls) = (gate.clone(), times.clone());
    owner.misbehave(move |ids| {
        let mut calls = calls.lock();
        let slow = ids.iter().any(|id| id == "slow");
        if !slow {
            calls.push(Instant::now());
        }
        match (slow, calls.len()) {
            (true, _) => Some(Fault::Until(held.clone())),
            (_, 1) => Some(Fault::Status(429, Some(1))),
            _ => None,
        }
    });
    owner.put("slow", json!("slow")).await;
    eventually("one callback is under way", || async {
        (owner.times_asked("slow") == 1).then_some(())
    })
    .await;
    owner.put("42", json!("told to wait")).await;
    eventually("the other one is told to wait", || async {
        (owner.times_asked("42") == 1).then_some(())
    })
    .await;
    gate.cancel();
    copy.converged(&owner).await;
    let times = times.lock().clone();
    let waited = times[1] - times[0];
    assert!(waited >= Duration::from_secs(1), "the next call came after {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_makes_the_owner_fail_is_parked_alone_and_holds_nobody_up() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut settings = quick();
    // Well above the delay of an answer that should arrive, even on a slow machine.
    settings.fetch_timeout = Duration::from_secs(1);
    settings.max_batches_in_flight = 1;
    settings.queue.max_wait = Duration::from_millis(100);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let faults = [
        Fault::Status(404, None),
        Fault::Status(408, None),
        Fault::Status(429, None),
        Fault::Status(500, None),
        Fault::Status(502, None),
        Fault::Status(503, None),
        Fault::Status(504, None),
        Fault::Body("nonsense"),
        Fault::Body(r#"{"items":[]}"#),
        Fault::Body(r#"{"items":[{"id":"another","status":"unknown"}]}"#),
        Fault::Half,
        Fault::Hang,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        let poison = format!("{n}-poison");
        let (id, given) = (poison.clone(), fault.clone());
        // The others are slow, so that there is always another key to share a batch with: all are announced while the
        // first of them is asked for.
        let slow = Fault::Delay(Duration::from_millis(150));
        owner.misbehave(move |ids| {
            let fault = if ids.contains(&id) { &given } else { &slow };
            (!ids.is_empty()).then(|| fault.clone())
        });
        let failed = copy.metric("nudge_retried_total").await;
        let others: Vec<_> = (0..20).map(|m| format!("{n}-{m}")).collect();
        let everybody = others[..7].iter().chain([&poison]).chain(&others[7..]);
        let mut put = Vec::new();
        for id in everybody {
            put.push(owner.put(id, json!(n)).await);
        }
        for change in &put {
            wire.notify(change).await;
        }
        let settled = || async {
            let (mut all, copies) = (owner.all().await, copy.all().await);
            all.retain(|(id, _)| *id != poison);
            (all == copies).then_some(())
        };
        eventually("everybody else is applied", settled).await;
        let parked = copy.dead_letters(1).await;
        assert_eq!(parked[0]["id"], json!(poison), "{fault:?}");
        assert!(parked[0]["next_at"].is_string(), "{fault:?}: it is tried again by itself");
        let spoilt = || owner.asked().iter().filter(|b| b.len() > 1 && b.contains(&poison)).count();
        let failed = copy.metric("nudge_retried_total").await - failed;
        let (before, tried) = (spoilt(), owner.times_asked(&poison));
        assert!(before > 0, "{fault:?}: it was in a batch with others");
        assert!(failed as usize <= tried - before, "{fault:?}: only its own runs count as failed");
        eventually("it is tried again while others come and go", || async {
            for id in &others {
                wire.notify(&owner.put(id, json!("again")).await).await;
            }
            (owner.times_asked(&poison) > tried + 1).then_some(())
        })
        .await;
        assert_eq!(spoilt(), before, "{fault:?}: a key that failed spoils no batch again");
        owner.behave();
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_owner_refuses_for_one_key_is_a_dead_letter() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let refused = |ids: &[String]| ids.contains(&"bad".into()).then_some(Fault::Status(422, None));
    owner.misbehave(refused);
    owner.put_all(&[("a", json!(1)), ("bad", json!(2)), ("c", json!(3))]).await;
    let dead = copy.dead_letters(1).await;
    assert_eq!(dead[0]["id"], "bad");
    assert!(dead[0]["next_at"].is_null(), "only a person or a new version tries it again");
    eventually("the others are applied", || async { (copy.all().await.len() == 2).then_some(()) })
        .await;
    owner.behave();
    owner.put("bad", json!("better")).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_is_asked_for_in_parts_until_one_thing_is_left() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut settings = quick();
    settings.max_answer_bytes = 10_000;
    let large = |bytes: usize| json!("9".repeat(bytes));
    let things: Vec<_> = (0..9).map(|n| (format!("thing-{n}"), large(2_000))).collect();
    let mut things: Vec<_> = things.iter().map(|(id, body)| (id.as_str(), body.clone())).collect();
    things.push(("too-large", large(10_000)));
    owner.put_all(&things).await;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let dead = copy.dead_letters(1).await;
    assert_eq!(dead[0]["id"], "too-large");
    copy.wait(&owner.put("too-large", large(1_000)).await).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_the_owner_does_not_know_is_kept_parked_and_healed() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    wire.notify(&owner.put("42", json!("first")).await).await;
    copy.converged(&owner).await;
    owner.forget("42").await;
    wire.announce("42", None).await;
    let parked = copy.dead_letters(1).await;
    assert!(parked[0]["next_at"].is_string());
    assert_eq!(copy.body("42").await, Some(json!("first")), "unknown is not deleted");
    // The owner knows it again, but publishes nothing.
    owner.put("42", json!("second")).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_a_stale_replica_are_asked_again_until_they_are_new() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.wait(&owner.put("42", json!("old")).await).await;
    let (stale, times) = (owner.last_answer(), AtomicUsize::new(0));
    let before = owner.times_asked("42");
    owner.misbehave(move |ids| {
        let stale_now = !ids.is_empty() && times.fetch_add(1, Ordering::SeqCst) < 3;
        stale_now.then(|| Fault::Replay(stale.clone()))
    });
    copy.wait(&owner.put("42", json!("new")).await).await;
    copy.converged(&owner).await;
    copy.quiet().await;
    assert_eq!(owner.times_asked("42"), before + 4);
    copy.dead_letters(0).await;
}

/// The only message left for the change names a version that the copy has had for long. The table must not believe it,
/// even while the owner cannot answer for the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_version_does_not_talk_a_failing_key_out_of_being_parked() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let old = owner.put("42", json!("old")).await;
    wire.notify(&old).await;
    copy.converged(&owner).await;
    owner.misbehave(|ids| ids.contains(&"42".into()).then_some(Fault::Status(500, None)));
    owner.put("42", json!("new")).await;
    wire.notify(&old).await;
    copy.dead_letters(1).await;
    owner.behave();
    copy.converged(&owner).await;
}
