//! An owner that can be broken in one way at a time, and what is said about each way.

mod broken_owner;

use nudge_runtime::auth::Credentials;
use nudge_testbed::Nats;
use serde_json::Value;

use super::*;
use broken_owner::{BrokenOwner, Fault};

/// What is found about an owner with this fault.
async fn found(fault: Fault, nats: Option<&Nats>) -> Vec<Value> {
    let broker = match nats {
        Some(nats) => Some(nats.broker("conformance").await),
        None => None,
    };
    let owner = BrokenOwner::start(fault, broker.clone()).await;
    let write = Write { url: owner.url("/things/{id}"), body: r#"{"name":"{value}"}"#.to_owned() };
    let target = Target::new(
        &owner.url(""),
        EntityName::new("thing").unwrap(),
        Some(write),
        &Credentials::default(),
    );
    let report = tried(&target, broker.as_ref()).await;
    assert_eq!(report.lines().len(), report.lines().iter().filter(|line| !line.is_empty()).count());
    let findings = serde_json::to_value(&report).unwrap()["findings"].take();
    findings.as_array().unwrap().clone()
}

/// How many times a fault may have to be tried: on a busy machine, writes and reads may fail to meet.
const TRIES: usize = 5;

/// The rule that is broken, by a part of its text, and a part of how.
async fn check(fault: Fault, nats: Option<&Nats>, rule: &str, how: &str) {
    let mut last = Value::Null;
    for _ in 0..TRIES {
        let findings = found(fault, nats).await;
        let of = |finding: &&Value| finding["rule"].as_str().unwrap().contains(rule);
        let finding = findings.iter().find(of).unwrap_or_else(|| panic!("no rule of {rule}"));
        let detail = finding["detail"].as_str().unwrap_or_default();
        if finding["result"] == "broken" && detail.contains(how) {
            return;
        }
        last = finding.clone();
    }
    panic!("{fault:?}: {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_keeps_to_the_protocol_breaks_nothing() {
    let nats = Nats::start().await;
    for finding in found(Fault::None, Some(&nats)).await {
        assert_eq!(finding["result"], "kept", "{finding}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_tried_is_said_and_not_held_against_the_owner() {
    let owner = BrokenOwner::start(Fault::None, None).await;
    let target = Target::new(
        &owner.url(""),
        EntityName::new("thing").unwrap(),
        None,
        &Credentials::default(),
    );
    let report = tried(&target, None).await;
    assert_eq!(report.broken(), 0);
    let lines = report.lines().join("\n");
    for said in [
        "not tried: it needs writes: give --write-url",
        "not tried: it is about NATS: give --nats",
        "0 broken",
    ] {
        assert!(lines.contains(said), "{said}: {lines}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_an_owners_answers_is_told() {
    for (fault, rule, how) in [
        (Fault::NoVersion, "batch-get answers each ID once", "without a version or a state"),
        (Fault::Twice, "batch-get answers each ID once", "was not asked, or answers it twice"),
        (Fault::UnknownIsDeleted, "never recorded is unknown", "it is \"deleted\""),
        (Fault::Cached, "no-store", "Cache-Control"),
        (Fault::GoneIsMissing, "410 with the version", "the deleted"),
        (Fault::Disagrees, "agree about versions", "items lists"),
        (Fault::ByLength, "bytewise order", "comes after"),
        (Fault::NextIsFirst, "keeps to limit", "and the last ID"),
        (Fault::NoProbe, "the probe", "items is answered with 404"),
        (Fault::Unbounded, "beyond a limit", "513 IDs is answered with 200"),
        (Fault::Hungry, "2 MiB", "it is answered with 422"),
        (Fault::PlainErrors, "problem+json", "Content-Type \"text/plain"),
        (Fault::WordsAreCalls, "means the entity", "GET of items is answered with 405"),
        (Fault::NotDecoded, "every allowed ID", "after it was written"),
    ] {
        check(fault, None, rule, how).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_an_owners_writes_is_told() {
    for (fault, rule, how) in [
        (Fault::Forgets, "stays known as deleted", "is \"unknown\" where it should be \"deleted\""),
        (Fault::HidesDeleted, "stays known as deleted", "items does not list the deleted"),
        (
            Fault::StartsAnew,
            "through deletion and re-creation",
            "after re-creation the version is 1",
        ),
        (Fault::EarlyVersion, "several write at the same time", "version"),
        (Fault::LateState, "the same state", "was answered with write"),
        (Fault::TwoSnapshots, "one snapshot", "never stood together"),
        (Fault::ByOffset, "misses and repeats nothing", "conformance-page-"),
    ] {
        check(fault, None, rule, how).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_on_nats_is_told() {
    for (fault, rule, how) in [
        (Fault::MaxAge, "the newest message of each subject", "max_age is 60000000000, not 0"),
        (Fault::LowerCase, "encoding of an ID", "is published on"),
        (Fault::Data, "an ID and a change", "holds more than an ID and a change"),
        (Fault::MessageId, "an ID and a change", "has Nats-Msg-Id"),
        (Fault::OldVersion, "newest version of each entity", "and items lists"),
        (Fault::SilentDeletion, "are published within 10 s", "for the deletion of version"),
        (Fault::WrongDigest, "digest answers", "and by items"),
    ] {
        // Each makes the stream as it likes.
        let nats = Nats::start().await;
        check(fault, Some(&nats), rule, how).await;
    }
}
