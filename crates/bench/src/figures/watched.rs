//! What it costs a subscriber that ten people watch it, while it follows 5,000 changes a second.

use std::fs;

use futures_util::StreamExt;
use nudge_runtime::BoxError;
use tokio::{task::JoinSet, time::Instant};

use super::Bench;
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
};

pub(super) const NAME: &str = "watched";
const WATCHERS: usize = 10;
const CHANGES: usize = 20_000;
const WATCHED: &str = "ten watchers";
const ALONE: &str = "nobody";
/// What Linux counts a process's time in, in all its builds.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    if cpu_seconds().is_none() {
        return Ok(Vec::new());
    }
    let title = "CPU of owner and subscriber at 5,000 changes/s, watched by";
    let aims = vec![Aim::at_most(1.1, Some(ALONE))];
    let mut figure = Figure::new(NAME, title, bench.kind(), "% of a core", aims);
    bench
        .rounds(NAME, async |_| {
            figure.add(WATCHED, load(bench, WATCHERS).await?);
            figure.add(ALONE, load(bench, 0).await?);
            Ok(())
        })
        .await?;
    Ok(vec![figure])
}

/// The share of a core that this process takes, in hundredths.
async fn load(bench: &Bench<'_>, watchers: usize) -> Result<f64, BoxError> {
    let changes = bench.some(CHANGES);
    let subscriber = Subscriber::start(&bench.world, &bench.owner, "copies").await?;
    subscriber.caught_up(bench.things).await;
    let mut watching = JoinSet::new();
    for _ in 0..watchers {
        let mut events = subscriber.get("nudge/v1/events").await?.bytes_stream();
        watching.spawn(async move { while events.next().await.is_some() {} });
    }
    let (began, before) = (Instant::now(), cpu_seconds().unwrap_or_default());
    let (last, edition) = bench.change(changes).await?;
    subscriber.has(&last, edition).await;
    let taken = cpu_seconds().unwrap_or_default() - before;
    let share = taken / began.elapsed().as_secs_f64() * 100.0;
    watching.shutdown().await;
    subscriber.stop(&bench.world).await?;
    Ok(share)
}

/// The time that this process has spent on a processor; `None` where Linux's way to ask is not known.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold anything.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}
