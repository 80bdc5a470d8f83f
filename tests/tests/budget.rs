//! The owner's budget: how much subscribers may ask for, and who of them is next.

use std::{num::NonZeroU32, sync::Arc};

use nudge_protocol::sync_api::{LANE_HEADER, SUBSCRIBER_HEADER};
use nudge_tests::{Copy, Nats, Owner, TestDatabase, copy::quick, eventually, owner::ENTITY};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};

/// What `/metrics` of an owner says of this series.
fn metric(owner: &Owner, series: &str) -> Option<f64> {
    let (mut registry, mut text) = (Registry::default(), String::new());
    owner.publisher.register_metrics(&mut registry);
    encode(&mut text, &registry).expect("it is written");
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map(|value| value.trim().parse().expect("a number"))
}

fn budget_of(owner: &Owner) -> Option<f64> {
    metric(owner, &format!("nudge_owner_budget{{entity=\"{ENTITY}\"}}"))
}

/// What a subscriber took or was refused in a lane.
fn of_lane(owner: &Owner, name: &str, lane: &str) -> f64 {
    let labels = format!("entity=\"{ENTITY}\",subscriber=\"copies\",lane=\"{lane}\"");
    metric(owner, &format!("{name}{{{labels}}}")).unwrap_or(0.0)
}

/// Sets the budget of an owner whose relay does not run.
fn limit(owner: &mut Owner, per_second: u32) {
    owner.publisher = owner.publisher.clone().budget(NonZeroU32::new(per_second));
}

/// Its backlog needs a minute of the budget, and much of it is refused meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_change_passes_the_backlog_that_waits_for_the_owners_budget() {
    let nats = Nats::start().await;
    let mut owner = Owner::start_silent().await;
    limit(&mut owner, 60);
    owner.second_relay(&nats.broker("things").await);
    let ids: Vec<_> = (0..3_600).map(|n| format!("thing-{n:04}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
    owner.put_all(&things).await;
    // So that all of it is backlog to the subscriber.
    eventually("all are published", || async {
        (owner.publisher.health().published >= 3_600).then_some(())
    })
    .await;
    let mut settings = quick();
    // So many callbacks at a time that some wait for too long.
    (settings.max_batch_keys, settings.max_batches_in_flight) = (10, 50);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    eventually("some of its backlog is refused", || async {
        (of_lane(&owner, "nudge_owner_refused_total", "backlog") > 0.0).then_some(())
    })
    .await;
    let fresh = owner.put("fresh", json!(2)).await;
    copy.wait(&fresh).await;
    let filled = copy.all().await.len();
    assert!(filled < things.len(), "the fresh change came after the whole backlog");
    assert!(of_lane(&owner, "nudge_owner_asked_total", "fresh") > 0.0);
    let status = copy.status().await;
    let is_well = (json!("closed"), json!(0), json!(0));
    assert_eq!(
        (&status["breaker"], &status["retrying"], &status["parked"]),
        (&is_well.0, &is_well.1, &is_well.2)
    );
    limit(&mut owner, 1_000_000);
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
    assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_share_the_budget_and_the_one_that_is_left_has_all_of_it() {
    let nats = Nats::start().await;
    let database = Arc::new(TestDatabase::new().await);
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let mut owner = Owner::start_silent_on(database.clone(), ENTITY).await;
        limit(&mut owner, 1_000);
        owner.second_relay(&nats.broker("things").await);
        replicas.push(owner);
    }
    let each_has = async |replicas: &[Owner], part: f64| {
        eventually(&format!("each has {part} of the budget"), || async {
            replicas.iter().all(|owner| budget_of(owner) == Some(part)).then_some(())
        })
        .await;
    };
    each_has(&replicas, 500.0).await;
    replicas.remove(0).go_away().await;
    each_has(&replicas, 1_000.0).await;
}

async fn post(owner: &Owner, headers: &[(&str, &str)], ids: &[&str]) -> (u16, Value) {
    let url = format!("{}/sync/v1/{ENTITY}/batch-get", owner.url());
    let mut request = reqwest::Client::new().post(url).json(&json!({ "ids": ids }));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_name_is_refused_and_an_unknown_lane_is_backlog() {
    let owner = Owner::start_silent().await;
    owner.put("a", json!(1)).await;
    for name in ["(others)", "a b", &"a".repeat(100_000)] {
        let (status, problem) = post(&owner, &[(SUBSCRIBER_HEADER, name)], &["a"]).await;
        assert_eq!(status, 400, "{problem}");
        assert_eq!(problem["errors"][0]["field"], "Nudge-Subscriber");
    }
    let headers = [(SUBSCRIBER_HEADER, "copies"), (LANE_HEADER, "urgent")];
    assert_eq!(post(&owner, &headers, &["a"]).await.0, 200);
    assert_eq!(of_lane(&owner, "nudge_owner_asked_total", "backlog"), 1.0);
}

/// It need not be given all that it asks for at once, but never nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_callback_is_answered_in_part() {
    let mut owner = Owner::start_silent().await;
    limit(&mut owner, 1);
    owner.put_all(&[("a", json!(1)), ("b", json!(1)), ("c", json!(1))]).await;
    let (status, answer) = post(&owner, &[], &["a", "b", "c"]).await;
    assert_eq!((status, answer["items"].as_array().map(Vec::len)), (200, Some(1)));
}
