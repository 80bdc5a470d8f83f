//! How an owner shares its budget between 1 to 16 subscribers, and what fresh changes wait for while others rebuild their read
//! models: those of other subscribers, and those of the one that rebuilds.
//!
//! `cargo bench -p nudge-tests --bench budget`, with `BUDGET=5000` for another budget than 2,000 entities a second, and
//! `REPLICAS=1` for another number of replicas than two. Subscribers are HTTP clients that ask as the kit does.

use std::{
    env,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use nudge_protocol::sync_api::{LANE_HEADER, Lane, SUBSCRIBER_HEADER};
use nudge_tests::{Nats, Owner, TestDatabase, eventually, owner::ENTITY};
use prometheus_client::{encoding::text::encode, registry::Registry};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

const ENTITIES: usize = 2_000;
/// How long each figure is measured for. The budget of a second, saved up before, is left out.
const MEASURED: Duration = Duration::from_secs(6);
const WARM_UP: Duration = Duration::from_secs(2);
/// Callbacks of a rebuilding subscriber at a time, and the entities of each: the kit's defaults.
const AT_A_TIME: usize = 4;
const BATCH: usize = 256;
/// Pause between two fresh changes of a subscriber.
const EDIT: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() {
    let number = |name| env::var(name).ok().map(|n| n.parse().expect("a number"));
    let (budget, replicas) = (number("BUDGET").unwrap_or(2_000), number("REPLICAS").unwrap_or(2));
    let nats = Nats::start().await;
    let database = Arc::new(TestDatabase::new().await);
    let mut owners = Vec::new();
    for _ in 0..replicas {
        let mut owner = Owner::start_silent_on(database.clone(), ENTITY).await;
        owner.publisher = owner.publisher.clone().budget(NonZeroU32::new(budget));
        owner.second_relay(&nats.broker("things").await);
        owners.push(owner);
    }
    let ids: Vec<_> = (0..ENTITIES).map(|n| format!("thing-{n}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!({"name": "달빛국수"}))).collect();
    owners[0].put_all(&things).await;
    eventually("the replicas know of each other", || async {
        owners
            .iter()
            .all(|owner| part(owner) == f64::from(budget) / f64::from(replicas))
            .then_some(())
    })
    .await;
    let urls: Vec<_> = owners.iter().map(Owner::url).collect();
    println!("{budget} entities/s, {replicas} replicas, {:?}", owners[0].db.kind());
    for subscribers in [1, 2, 4, 8, 16] {
        let mut taken = rebuild(&urls, subscribers).await;
        taken.sort_unstable();
        let seconds = MEASURED.as_secs_f64();
        let (all, each) =
            (taken.iter().sum::<usize>() as f64, |n: usize| taken[n] as f64 / seconds);
        println!(
            "  {subscribers:>2} rebuild: {:>6.0} entities/s together; least {:>5.0}, most {:>5.0}",
            all / seconds,
            each(0),
            each(subscribers - 1),
        );
    }
    for rebuilding in [0, 1, 15] {
        let (waits, taken) = tokio::join!(edits(&urls, "fresh"), rebuild(&urls, rebuilding));
        println!("  15 edit beside {rebuilding:>2} that rebuild{}", told(&waits, &taken));
    }
    let (waits, taken) = tokio::join!(edits(&urls, "s"), rebuild(&urls, 15));
    println!("  15 that rebuild edit, too   {}", told(&waits, &taken));
}

/// How long fresh changes waited, in order, beside so much that was answered of rebuilding.
fn told(waits: &[Duration], taken: &[usize]) -> String {
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!(
        " at {:>5.0} entities/s: fresh answered in {:.1} ms (p50), {:.1} ms (p99), {} of {} refused",
        taken.iter().sum::<usize>() as f64 / MEASURED.as_secs_f64(),
        at(0.5),
        at(0.99),
        waits.iter().filter(|wait| **wait == Duration::MAX).count(),
        waits.len(),
    )
}

/// The part of the budget that a replica has.
fn part(owner: &Owner) -> f64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    owner.publisher.register_metrics(&mut registry);
    encode(&mut text, &registry).expect("it is written");
    let series = format!("nudge_owner_budget{{entity=\"{ENTITY}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series)).expect("the metric");
    value.parse().expect("a number")
}

/// Asks once. Returns how many entities were answered, and how long to wait if none were.
async fn ask(
    http: &Client,
    url: &str,
    name: &str,
    lane: Lane,
    ids: &[String],
) -> Result<usize, Duration> {
    let request = http
        .post(format!("{url}/sync/v1/{ENTITY}/batch-get"))
        .header(SUBSCRIBER_HEADER, name)
        .header(LANE_HEADER, lane.as_str())
        .json(&json!({ "ids": ids }));
    let answer = request.send().await.expect("an answer");
    if answer.status() == StatusCode::TOO_MANY_REQUESTS {
        let seconds = answer.headers()["retry-after"].to_str().expect("text").parse();
        return Err(Duration::from_secs(seconds.expect("a number")));
    }
    let body: Value = answer.json().await.expect("JSON");
    Ok(body["items"].as_array().expect("items").len())
}

/// What each of so many rebuilding subscribers is answered while it is measured.
async fn rebuild(urls: &[String], subscribers: usize) -> Vec<usize> {
    let ids: Vec<_> = (0..BATCH).map(|n| format!("thing-{n}")).collect();
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for n in 0..subscribers * AT_A_TIME {
        let (url, ids, subscriber) = (urls[n % urls.len()].clone(), ids.clone(), n / AT_A_TIME);
        asking.spawn(async move {
            let (http, mut taken) = (Client::new(), 0);
            while began.elapsed() < WARM_UP + MEASURED {
                match ask(&http, &url, &format!("s{subscriber}"), Lane::Backlog, &ids).await {
                    Ok(some) if (WARM_UP..WARM_UP + MEASURED).contains(&began.elapsed()) => {
                        taken += some
                    }
                    Ok(_) => {}
                    Err(wait) => sleep(wait).await,
                }
            }
            (subscriber, taken)
        });
    }
    let mut taken = vec![0; subscribers];
    while let Some(one) = asking.join_next().await {
        let (subscriber, some) = one.expect("it ends");
        taken[subscriber] += some;
    }
    taken
}

/// How long the fresh changes of 15 subscribers with such names took, in order; the longest of all stands for a refusal.
async fn edits(urls: &[String], names: &'static str) -> Vec<Duration> {
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for n in 0..15 {
        let url = urls[n % urls.len()].clone();
        asking.spawn(async move {
            let (http, mut waits) = (Client::new(), Vec::new());
            let ids = [format!("thing-{n}")];
            while began.elapsed() < WARM_UP + MEASURED {
                let asked = Instant::now();
                let answered = ask(&http, &url, &format!("{names}{n}"), Lane::Fresh, &ids).await;
                if began.elapsed() > WARM_UP {
                    waits.push(answered.map_or(Duration::MAX, |_| asked.elapsed()));
                }
                sleep(EDIT).await;
            }
            waits
        });
    }
    let mut waits = Vec::new();
    while let Some(one) = asking.join_next().await {
        waits.extend(one.expect("it ends"));
    }
    waits.sort_unstable();
    waits
}
