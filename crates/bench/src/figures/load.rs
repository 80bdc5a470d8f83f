//! From the owner's commit to the readable row, while half as many changes flow as one subscriber can work off.

use std::time::{Duration, Instant};

use nudge_runtime::BoxError;
use tokio::time::{MissedTickBehavior, interval};

use super::{Bench, OURS, idle::milliseconds};
use crate::{
    lag::{Schedule, lags},
    report::{Aim, Figure},
    subscriber::Subscriber,
    thing::id,
};

pub(super) const NAME: &str = "load";
const CHANGES: usize = 400;
const INTERVAL: Duration = Duration::from_millis(10);
/// The other changes are committed so often.
const TICK: Duration = Duration::from_millis(10);

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let aims = vec![Aim::at_most(50.0, None)];
    let title = "commit to readable at half of the drain rate, p99";
    let mut p99 = Figure::new(NAME, title, kind, "ms", aims);
    let title = "changes committed meanwhile, of those meant";
    let mut committed = Figure::new(NAME, title, kind, "%", vec![Aim::least(95.0)]);
    bench
        .rounds(NAME, async |_| {
            let subscriber = Subscriber::start(&bench.world, &bench.owner, "copies").await?;
            let rate = subscriber.drained(bench.things).await? / 2.0;
            let each = ((rate * TICK.as_secs_f64()) as usize).max(1);
            let mut written = 0;
            let schedule = Schedule { changes: bench.some(CHANGES), interval: INTERVAL };
            let write = async |id: String, edition| bench.owner.write(&[id], edition).await;
            let (reader, began) = (subscriber.reader(), Instant::now());
            let lags = tokio::select! {
                lags = lags(&reader, schedule, write) => lags?,
                failed = flow(bench, each, &mut written) => return Err(failed),
            };
            let pace = written as f64 / began.elapsed().as_secs_f64();
            committed.add(OURS, pace * TICK.as_secs_f64() / each as f64 * 100.0);
            p99.add(OURS, milliseconds(&lags, 0.99));
            subscriber.stop(&bench.world).await
        })
        .await?;
    Ok(vec![p99, committed])
}

/// Changes so many things at each tick, as one transaction, and counts them.
async fn flow(bench: &Bench<'_>, each: usize, written: &mut usize) -> BoxError {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let ids: Vec<_> = (*written..*written + each).map(|n| id(n % bench.things)).collect();
        let edition = (*written / bench.things) as i64 + 2;
        if let Err(error) = bench.owner.write(&ids, edition).await {
            return error;
        }
        *written += each;
    }
}
