//! Searches, while the service that answers them applies 5,000 changes a second.

use std::time::Duration;

use hdrhistogram::Histogram;
use nudge_runtime::BoxError;
use nudge_testbed::Service;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{AT_A_TICK, LEAST_RATE, OURS, Run, TICK, idle::milliseconds};
use crate::{
    programs::{Programs, word},
    report::{Aim, Figure},
    world::World,
};

pub(super) const NAME: &str = "search";
const STORES: usize = 50_000;
/// What it has applied since its start.
const APPLIED: &str = "nudge_applied_total";
const SEARCHES: usize = 500;
const INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn measure(run: &Run<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = run.kind();
    let title = "GET /stores?q= while 5,000 changes/s are applied, p99";
    let mut p99 = Figure::new(NAME, title, kind, "ms", vec![Aim::at_most(50.0, None)]);
    let title = "changes applied meanwhile";
    let mut applied = Figure::new(NAME, title, kind, "/s", vec![Aim::least(LEAST_RATE)]);
    let stores = run.some(STORES);
    let services = [Service::StoreInfo, Service::Search];
    let programs = Programs::start(World::start(kind).await?, run.options, &services).await?;
    programs.import(0..stores, 0).await?;
    programs.applied(Service::Search, stores).await?;
    run.rounds(NAME, async |round| {
        let (before, began) = (programs.metric(Service::Search, APPLIED).await?, Instant::now());
        let lags = tokio::select! {
            lags = searches(&programs, run.some(SEARCHES)) => lags?,
            failed = change(&programs, stores, round) => return Err(failed),
        };
        let now = programs.metric(Service::Search, APPLIED).await?;
        applied.add(OURS, (now - before) / began.elapsed().as_secs_f64());
        p99.add(OURS, milliseconds(&lags, 0.99));
        Ok(())
    })
    .await?;
    programs.stop().await;
    Ok(vec![p99, applied])
}

/// Changes stores until it fails.
async fn change(programs: &Programs, stores: usize, round: usize) -> BoxError {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0.. {
        ticks.tick().await;
        let first = n * AT_A_TICK % stores;
        // No two editions of a store are the same.
        let edition = round * 1_000 + n * AT_A_TICK / stores + 1;
        if let Err(error) = programs.import(first..first + AT_A_TICK, edition).await {
            return error;
        }
    }
    unreachable!("it changes for ever")
}

/// How long searches take that are sent at fixed times, in microseconds.
async fn searches(programs: &Programs, count: usize) -> Result<Histogram<u64>, BoxError> {
    let url = format!("{}/stores", programs.url(Service::Search));
    let (mut asking, mut lags) = (JoinSet::<Result<u64, BoxError>>::new(), Histogram::new(3)?);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..count {
        let due = ticks.tick().await;
        let asked = programs.http.get(&url).query(&[("q", word(n))]);
        asking.spawn(async move {
            asked.send().await?.error_for_status()?.bytes().await?;
            Ok(u64::try_from(due.elapsed().as_micros())?)
        });
    }
    while let Some(lag) = asking.join_next().await {
        lags.record(lag??)?;
    }
    Ok(lags)
}
