//! The owner's budget: how much subscribers may ask for, and who of them is next.

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nudge_protocol::{
    EntityName,
    sync_api::{ItemsRequest, LANE_HEADER, MAX_ITEMS_LIMIT, SUBSCRIBER_HEADER},
};
use nudge_runtime::auth::Credentials;
use nudge_subscriber_kit::{
    ResyncSettings, Settings,
    owner_client::{HttpOwner, OwnerClient},
};
use nudge_tests::{
    Copy, Fault, Nats, Owner, ReadModel, TestDatabase, copy::quick, eventually, owner::ENTITY,
};
use parking_lot::Mutex;
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What a subscriber took in both lanes.
fn asked_by(owner: &Owner, name: &str) -> f64 {
    let lane = |lane| {
        let labels = format!("entity=\"{ENTITY}\",subscriber=\"{name}\",lane=\"{lane}\"");
        metric(owner, &format!("nudge_owner_asked_total{{{labels}}}")).unwrap_or(0.0)
    };
    lane("backlog") + lane("fresh")
}

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

/// Whichever way it comes, and however much of it there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_during_a_pause_is_backlog() {
    const A_BACKLOG: u64 = 20;
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut settings = quick();
    // Few are delivered in advance.
    (settings.max_backlog_messages, settings.max_ack_pending) = (A_BACKLOG, 10);
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let asked = |lane| of_lane(&owner, "nudge_owner_asked_total", lane);
    // What it finds at its start is backlog.
    eventually("a change is fresh", || async {
        copy.wait(&owner.put("fresh", json!(0)).await).await;
        (asked("fresh") > 0.0).then_some(())
    })
    .await;
    let before = (asked("fresh"), asked("backlog"));
    assert_eq!(copy.post("pause").await, 200);
    for n in 1..=3 {
        let ids: Vec<_> = (0..2 * A_BACKLOG).map(|id| format!("{n}-{id}")).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(n))).collect();
        owner.put_all(&things).await;
        // Before the next are published, a check finds these.
        eventually("it is known that they wait", || async {
            (copy.status().await["stream_pending"] == n * 2 * A_BACKLOG - 10).then_some(())
        })
        .await;
    }
    assert_eq!(copy.post("resume").await, 200);
    copy.converged(&owner).await;
    assert_eq!((asked("fresh"), asked("backlog")), (before.0, before.1 + 6.0 * A_BACKLOG as f64));
    copy.wait(&owner.put("fresh", json!(1)).await).await;
    assert_eq!(asked("fresh"), before.0 + 1.0);
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

/// Fills an owner without a budget with so many things. Returns it with a copy that has all of them.
async fn filled(nats: &Nats, things: usize, settings: Settings) -> (Owner, Copy) {
    let mut owner = Owner::start_silent().await;
    limit(&mut owner, 1_000_000);
    owner.second_relay(&nats.broker("things").await);
    let ids: Vec<_> = (0..things).map(|n| format!("t{n:03}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({ "name": id }))).collect();
    owner.put_all(&things).await;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    copy.converged(&owner).await;
    copy.quiet().await;
    (owner, copy)
}

/// What it gets while somebody else asks for everything, several times at once, and obeys nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_are_found_and_repaired_with_a_small_share_while_fresh_changes_pass() {
    let nats = Nats::start().await;
    let mut settings = quick();
    settings.resync = ResyncSettings {
        enabled: true,
        interval: Duration::from_millis(50),
        owner_percent: 100,
        recent_interval: Duration::from_secs(600),
        confirm_after: Duration::from_millis(50),
        contents_interval: Duration::from_secs(600),
        ..ResyncSettings::default()
    };
    let (mut owner, copy) = filled(&nats, 300, settings).await;
    limit(&mut owner, 40);
    let mut strangers = JoinSet::new();
    for _ in 0..20 {
        let url = format!("{}/sync/v1/{ENTITY}/batch-get", owner.url());
        let ids: Vec<_> = (0..300).map(|n| format!("t{n:03}")).collect();
        strangers.spawn(async move {
            let http = reqwest::Client::new();
            loop {
                let request = http.post(&url).json(&json!({ "ids": ids }));
                let _ = request.send().await.expect("an answer").bytes().await;
            }
        });
    }
    eventually("the budget is used up", || async {
        let refused = format!(
            "nudge_owner_refused_total{{entity=\"{ENTITY}\",subscriber=\"(unnamed)\",lane=\"backlog\"}}"
        );
        (metric(&owner, &refused)? > 0.0).then_some(())
    })
    .await;
    for sql in [
        "DELETE FROM nudge_applied WHERE id IN ('t001', 't150', 't151', 't299')",
        "DELETE FROM copy WHERE id IN ('t001', 't150', 't151', 't299')",
        "UPDATE nudge_applied SET version = version - 5 WHERE id = 't200'",
        "UPDATE copy SET body = '{}' WHERE id = 't200'",
        "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) VALUES ('thing', 'ghost', 7, 0, 0)",
        "INSERT INTO copy (id, version, body) VALUES ('ghost', 7, '{}')",
    ] {
        copy.db.write(sqlx::query(sql)).await.expect("the row is altered");
    }
    let mut edits = 0;
    eventually("all is repaired, and fresh changes pass meanwhile", || {
        edits += 1;
        let (owner, copy) = (&owner, &copy);
        async move {
            copy.wait(&owner.put("fresh", json!({ "edit": edits })).await).await;
            (copy.all().await == owner.all().await).then_some(())
        }
    })
    .await;
    strangers.shutdown().await;
    let status = copy.status().await;
    assert_eq!((&status["breaker"], &status["parked"]), (&json!("closed"), &json!(0)));
    copy.dead_letters(0).await;
}

/// A copy that claims newer versions than the owner has, of more entities than have their turn at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_unanswered_of_fresh_versions_is_asked_for_again_in_the_same_comparison() {
    let nats = Nats::start().await;
    let seldom = Duration::from_secs(600);
    let mut settings = quick();
    settings.resync = ResyncSettings {
        enabled: true,
        interval: seldom,
        recent_interval: seldom,
        overdue_after: seldom,
        contents_interval: seldom,
        newest_contents_interval: seldom,
        owner_percent: 100,
        confirm_after: Duration::from_millis(50),
        ..ResyncSettings::default()
    };
    let (mut owner, copy) = filled(&nats, 60, settings).await;
    copy.handled(&owner).await;
    let held = Vec::from_iter((0..60).map(|n| json!({"id": format!("t{n:03}"), "version": 1})));
    limit(&mut owner, 40);
    let url = format!("{}/sync/v1/{ENTITY}/renew", owner.url());
    let answer = reqwest::Client::new().post(url).json(&json!({ "items": held })).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer, json!({"renewed": 0, "left": 0, "unanswered": 58}), "one turn");
    for sql in [
        "UPDATE nudge_applied SET version = version + 5",
        "UPDATE copy SET version = version + 5, body = '{}'",
    ] {
        copy.db.write(sqlx::query(sql)).await.expect("the rows are altered");
    }
    let request =
        reqwest::Client::new().post(copy.admin("resync")).json(&json!({"entity": ENTITY}));
    assert_eq!(request.send().await.expect("an answer").status(), 202);
    eventually("all is as its owner has it", || async {
        (copy.all().await == owner.all().await).then_some(())
    })
    .await;
}

/// Each probe of whose fault a failure is gets the answer that the owner is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_key_is_isolated_and_parked_though_the_owner_is_too_busy_for_probes() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let answered = Mutex::new(HashSet::new());
    owner.misbehave(move |ids| {
        let mut answered = answered.lock();
        match ids {
            _ if ids.iter().any(|id| id == "bad") => Some(Fault::Status(500, None)),
            [] => Some(Fault::Status(429, Some(1))),
            [witness] if answered.contains(witness) => Some(Fault::Status(429, Some(1))),
            _ => {
                answered.extend(ids.iter().cloned());
                None
            }
        }
    });
    let ids = ["a", "b", "bad", "c", "d", "e", "f"];
    owner.put_all(&ids.map(|id| (id, json!({})))).await;
    let settings = Settings { max_attempts_in_memory: 2, ..quick() };
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    eventually("the others are applied", || async {
        (copy.all().await.len() == ids.len() - 1).then_some(())
    })
    .await;
    let parked = copy.dead_letters(1).await;
    assert_eq!(parked[0]["id"], "bad");
    assert!(parked[0]["next_at"].is_string(), "it is retried: {parked:?}");
    // Nor do others wait for it.
    copy.wait(&owner.put("g", json!({})).await).await;
    owner.behave();
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

/// It asks for all of them at once, and the owner needs half a minute for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_applied_before_the_rest_has_its_turn() {
    let nats = Nats::start().await;
    let mut owner = Owner::start_silent().await;
    limit(&mut owner, 10);
    owner.second_relay(&nats.broker("things").await);
    let ids: Vec<_> = (0..300).map(|n| format!("t{n:03}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
    owner.put_all(&things).await;
    let settings = Settings { max_batches_in_flight: 1, ..quick() };
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    let few = eventually("some are applied", || async {
        let applied = copy.all().await.len();
        (applied > 0).then_some(applied)
    })
    .await;
    assert!(few < 100, "{few}");
    // Nothing was retried for that.
    assert_eq!(copy.status().await["retrying"], 0);
    limit(&mut owner, 1_000_000);
    copy.converged(&owner).await;
}

/// Each of these costs more than a second's budget, or all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_exceeds_the_budget_of_a_second_is_answered() {
    let ids: Vec<_> = (0..200).map(|n| format!("t{n:03}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
    for budget in [1, 10] {
        let mut owner = Owner::start_silent().await;
        owner.put_all(&things).await;
        limit(&mut owner, budget);
        for (call, request) in [
            ("batch-get", json!({ "ids": ids })),
            ("items", json!({ "limit": 1_000 })),
            ("change-log", json!({ "ids": ids })),
            ("batch-get", json!({ "ids": ids })),
        ] {
            let url = format!("{}/sync/v1/{ENTITY}/{call}", owner.url());
            eventually(&format!("{call} is answered, with {budget} a second"), || async {
                let answer = reqwest::Client::new().post(&url).json(&request).send().await;
                let answer = answer.expect("an answer");
                let later = answer.headers().get("retry-after");
                let later = later.map(|value| value.to_str().expect("text").parse::<u64>());
                assert!(later.is_none_or(|seconds| (1..=10).contains(&seconds.expect("a number"))));
                (answer.status() == 200).then_some(())
            })
            .await;
        }
    }
}

/// They need not be ours: nobody obeys `Retry-After`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_together_answer_no_more_than_the_budget_whoever_asks() {
    let nats = Nats::start().await;
    let database = Arc::new(TestDatabase::new().await);
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let mut owner = Owner::start_silent_on(database.clone(), ENTITY).await;
        limit(&mut owner, 100);
        owner.second_relay(&nats.broker("things").await);
        replicas.push(owner);
    }
    eventually("they know of each other", || async {
        replicas.iter().all(|owner| budget_of(owner) == Some(50.0)).then_some(())
    })
    .await;
    let ids: Vec<_> = (0..50).map(|n| format!("t{n:03}")).collect();
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    for n in 0..140 {
        let url = format!("{}/sync/v1/{ENTITY}/batch-get", replicas[n % 2].url());
        let (ids, counts) = (ids.clone(), counts.clone());
        asking.spawn(async move {
            let ([granted, refused], http) = (&*counts, reqwest::Client::new());
            while granted.load(SeqCst) < 300 {
                let answer = http.post(&url).json(&json!({ "ids": ids })).send().await;
                let answer: Value = answer.expect("an answer").json().await.expect("JSON");
                match answer["items"].as_array() {
                    Some(items) => granted.fetch_add(items.len(), SeqCst),
                    None => refused.fetch_add(1, SeqCst),
                };
            }
        });
    }
    asking.join_all().await;
    let [granted, refused] = [0, 1].map(|n: usize| counts[n].load(SeqCst));
    assert!(refused > 0);
    // What may be used at once, and a turn, of each.
    let most = 100.0 * began.elapsed().as_secs_f64() + 2.0 * (10.0 + 3.0);
    assert!(granted as f64 <= most, "{granted} of {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_told_how_much_of_an_answers_time_was_the_wait_for_its_turn() {
    let mut owner = Owner::start_silent().await;
    limit(&mut owner, 10);
    let (credentials, settings) = (Credentials::default(), Settings::default());
    let client = HttpOwner::new(&owner.url(), &settings, &credentials).expect("a client");
    let entity = EntityName::new(ENTITY).expect("a good name");
    let request = ItemsRequest { after: None, limit: Some(MAX_ITEMS_LIMIT) };
    client.items(&entity, &request).await.expect("a page");
    assert_eq!(client.waited(), Duration::ZERO);
    let began = Instant::now();
    client.items(&entity, &request).await.expect("a page");
    assert!(client.waited() > Duration::ZERO && client.waited() <= began.elapsed());
    let other = client.in_lane(nudge_protocol::sync_api::Lane::Fresh).expect("the same owner");
    assert_eq!(other.waited(), Duration::ZERO, "it counts its own");
}

/// On SQLite only: PostgreSQL would have too few connections for so many.
mod once {
    use super::*;

    /// All were away while the whole backlog came into being.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sixteen_that_were_away_come_back_at_the_owners_rate() {
        const SUBSCRIBERS: usize = 16;
        const THINGS: usize = 300;
        const RATE: u32 = 400;
        let nats = Nats::start().await;
        let mut owner = Owner::start_silent().await;
        limit(&mut owner, RATE);
        owner.second_relay(&nats.broker("things").await);
        let names: Vec<_> = (0..SUBSCRIBERS).map(|n| format!("copies-{n}")).collect();
        let mut copies = Vec::new();
        for name in &names {
            let model = ReadModel::new().await.named(name);
            let copy = model.start(&nats.broker(name).await, &owner).await;
            assert_eq!(copy.post("pause").await, 200);
            copies.push(copy);
        }
        let ids: Vec<_> = (0..THINGS).map(|n| format!("t{n:03}")).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
        owner.put_all(&things).await;
        eventually("all are published", || async {
            (owner.publisher.health().published >= THINGS as u64).then_some(())
        })
        .await;
        let asked = || names.iter().map(|name| asked_by(&owner, name)).collect::<Vec<_>>();
        let before: f64 = asked().iter().sum();
        let began = Instant::now();
        for copy in &copies {
            assert_eq!(copy.post("resume").await, 200);
        }
        // Whoever begins alone takes what may be used at once after a pause.
        let at_first = asked();
        let half = (SUBSCRIBERS * THINGS) as f64 / 2.0;
        let taken = eventually("they have half of it", || async {
            let taken = asked();
            (taken.iter().sum::<f64>() >= half).then_some(taken)
        })
        .await;
        let (seconds, all) = (began.elapsed().as_secs_f64(), taken.iter().sum::<f64>() - before);
        // What may be used at once after a pause, and a turn.
        let most = f64::from(RATE) * (seconds + 0.25);
        assert!(all <= most, "{all} entities in {seconds} s");
        let shares: Vec<_> =
            taken.iter().zip(&at_first).map(|(taken, at_first)| taken - at_first).collect();
        let [least, most] = [f64::min, f64::max].map(|pick| shares.iter().copied().reduce(pick));
        assert!(most <= least.map(|least| 2.0 * least), "{shares:?}");
        // As short as it is, the backlog is one to its end: what is changed now waits for none of it.
        let fresh = owner.put("t000", json!(2)).await;
        for copy in &copies {
            copy.wait(&fresh).await;
        }
        let rest = (SUBSCRIBERS * THINGS) as f64 - asked().iter().sum::<f64>();
        assert!(rest > 0.0, "the fresh change was seen only after the backlog");
        for copy in &copies {
            copy.converged(&owner).await;
            copy.dead_letters(0).await;
        }
    }
}
