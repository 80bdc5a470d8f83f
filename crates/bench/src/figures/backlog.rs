//! From the owner's commit to the readable row, while a million notifications wait for the subscriber.

use std::time::Duration;

use nudge_runtime::BoxError;

use super::{Bench, OURS, idle::milliseconds};
use crate::{
    lag::{Schedule, lags},
    report::{Aim, Figure},
    subscriber::{Subscriber, count},
    world::World,
};

pub(super) const NAME: &str = "backlog";
/// Notifications that wait when the subscriber starts.
const WAITING: usize = 1_000_000;
const CHANGES: usize = 300;
const INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let title = "commit to readable while a million notifications wait, p99";
    let mut p99 = Figure::new(NAME, title, kind, "ms", vec![Aim::at_most(100.0, None)]);
    let title = "of them still waiting at the end";
    let mut left = Figure::new(NAME, title, kind, "", vec![Aim::least(1.0)]);
    (bench.progress)(&format!("{NAME} on {kind:?}: an owner of many things"));
    let (waiting, world) = (bench.some(WAITING), World::start(kind).await?);
    let owner = world.owner().await?;
    owner.fill(waiting, 0).await?;
    bench
        .rounds(NAME, async |_| {
            let subscriber = Subscriber::start(&world, &owner, "copies").await?;
            subscriber.begun().await?;
            let schedule = Schedule { changes: bench.some(CHANGES), interval: INTERVAL };
            let write = async |id: String, edition| owner.write(&[id], edition).await;
            let lags = lags(&subscriber.reader(), schedule, write).await?;
            p99.add(OURS, milliseconds(&lags, 0.99));
            left.add(OURS, waiting.saturating_sub(count(&subscriber.db).await?) as f64);
            subscriber.stop(&world).await
        })
        .await?;
    owner.stop().await;
    Ok(vec![p99, left])
}
