//! The owner gives wrong answers, or none.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use nudge_tests::{Fault, Trial, eventually};
use serde_json::json;

/// Minimum number of old answers in a trial of them: there are hundreds.
const SOME: u64 = 50;

/// Some callbacks fail in this way, then all of them until the breaker is open, then none. The breaker stays closed if the
/// owner is busy.
async fn misbehaves(name: &str, fault: Fault) {
    let mut trial = Trial::start(&format!("owner: {name}")).await;
    let (now_and_then, calls) = (fault.clone(), AtomicUsize::new(0));
    trial.owner.misbehave(move |ids| {
        let fails = !ids.is_empty() && calls.fetch_add(1, SeqCst).is_multiple_of(2);
        fails.then(|| now_and_then.clone())
    });
    trial.some_edits().await;
    let is_busy = matches!(fault, Fault::Status(429, Some(_)));
    trial.owner.misbehave(move |_| Some(fault.clone()));
    eventually("the breaker opens, or the owner's wait is kept to", || async {
        let status = trial.copy.status().await;
        let waits = is_busy && status["last_error"].is_string();
        (waits || status["breaker"] == "open").then_some(())
    })
    .await;
    trial.some_edits().await;
    if is_busy {
        assert_eq!(trial.copy.status().await["breaker"], "closed");
    }
    trial.owner.behave();
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

macro_rules! faults {
    ($($test:ident, $name:literal, $fault:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            misbehaves($name, $fault).await;
        }
    )*};
}

faults! {
    not_found_is_no_delete, "404", Fault::Status(404, None);
    gone_is_no_delete, "410", Fault::Status(410, None);
    unauthorized, "401", Fault::Status(401, None);
    forbidden, "403", Fault::Status(403, None);
    internal_error, "500", Fault::Status(500, None);
    unavailable, "503, Retry-After 1 s", Fault::Status(503, Some(1));
    too_many_requests, "429, Retry-After 1 s", Fault::Status(429, Some(1));
    a_page_for_people, "garbage", Fault::Body("<html>so sorry</html>");
    an_empty_object, "an empty object", Fault::Body("{}");
    half_a_body, "half a body", Fault::Half;
    nothing_until_the_timeout, "nothing until the timeout", Fault::Hang;
}

/// A stale replica, or a cache in between, answers everything as it was at the start. What did not exist then is
/// unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_state() {
    let mut trial = Trial::start("owner: old states").await;
    let (old, calls) = (trial.owner.answers().await, AtomicUsize::new(0));
    let answer = move |id: &String| {
        old.get(id).cloned().unwrap_or_else(|| json!({"id": id, "status": "unknown"}))
    };
    trial.owner.misbehave(move |ids| {
        let stale = !ids.is_empty() && calls.fetch_add(1, SeqCst) % 3 < 2;
        let items = || ids.iter().map(&answer).collect::<Vec<_>>();
        stale.then(|| Fault::Replay(json!({"items": items()}).to_string().into_bytes()))
    });
    let before = trial.copy.metric("nudge_retried_total").await;
    trial.some_edits().await;
    trial.some_edits().await;
    trial.owner.behave();
    let looked_again = trial.copy.metric("nudge_retried_total").await - before;
    assert!(looked_again > SOME, "only {looked_again} old answers were looked at again");
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_for_a_while() {
    let mut trial = Trial::start("owner: down").await;
    trial.owner.go_away().await;
    eventually("the breaker opens", || async {
        (trial.copy.status().await["breaker"] == "open").then_some(())
    })
    .await;
    let calls = trial.owner.calls();
    trial.some_edits().await;
    trial.owner.come_back().await;
    trial.mended().await;
    eventually("the breaker closes", || async {
        (trial.copy.status().await["breaker"] == "closed").then_some(())
    })
    .await;
    // Sixty things changed in the meantime. Not each of them takes a call of its own.
    let stampede = trial.owner.calls() - calls;
    assert!(stampede < 30, "{stampede} calls at once");
    trial.end_with_every_read_answered().await;
}
