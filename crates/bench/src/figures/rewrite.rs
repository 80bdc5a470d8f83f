//! Thousands of edits of one thing within seconds: how many callbacks they cost, and how soon the last one is readable.

use std::time::{Duration, Instant};

use nudge_runtime::BoxError;
use tokio::time::{MissedTickBehavior, interval};

use super::{Bench, OURS};
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
};

pub(super) const NAME: &str = "rewrite";
/// Edits, of one thing, and the time between two.
const EDITS: usize = 10_000;
const INTERVAL: Duration = Duration::from_millis(1);
const KEY: &str = "rewritten";

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let title = "callbacks per 100 edits of one thing";
    let mut callbacks = Figure::new(NAME, title, kind, "", vec![Aim::at_most(2.0, None)]);
    let title = "last of those edits to readable";
    let mut lag = Figure::new(NAME, title, kind, "ms", vec![Aim::at_most(250.0, None)]);
    let title = "those edits committed";
    let mut committed = Figure::new(NAME, title, kind, "/s", vec![Aim::least(950.0)]);
    let edits = bench.some(EDITS);
    bench
        .rounds(NAME, async |round| {
            let subscriber = Subscriber::start(&bench.world, &bench.owner, "copies").await?;
            subscriber.caught_up(bench.things).await?;
            subscriber.settled(&bench.world).await?;
            let before = subscriber.metric("nudge_callbacks_total").await?;
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (last, began) = ((round * EDITS + edits) as i64, Instant::now());
            for edition in (last - edits as i64 + 1)..=last {
                ticks.tick().await;
                bench.owner.write(&[KEY.to_owned()], edition).await?;
            }
            let last_committed = Instant::now();
            committed.add(OURS, edits as f64 / began.elapsed().as_secs_f64());
            subscriber.has(KEY, last).await?;
            lag.add(OURS, last_committed.elapsed().as_secs_f64() * 1e3);
            subscriber.settled(&bench.world).await?;
            let asked = subscriber.metric("nudge_callbacks_total").await? - before;
            callbacks.add(OURS, asked as f64 / edits as f64 * 100.0);
            subscriber.stop(&bench.world).await
        })
        .await?;
    Ok(vec![callbacks, committed, lag])
}
