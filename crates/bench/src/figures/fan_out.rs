//! What five subscribers ask of one owner while it changes things.

use futures_util::future::try_join_all;
use nudge_runtime::BoxError;

use super::{Bench, LEAST_RATE, OURS};
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
};

pub(super) const NAME: &str = "fan-out";
const SUBSCRIBERS: [&str; 5] = ["copies-1", "copies-2", "copies-3", "copies-4", "copies-5"];
/// Changes in each round.
const CHANGES: usize = 20_000;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let title = "callbacks of five subscribers per change, at 5,000 changes/s";
    let aims = vec![Aim::at_most(0.05, None)];
    let mut figure = Figure::new(NAME, title, bench.kind(), "", aims);
    let title = "changes committed meanwhile";
    let mut committed = Figure::new(NAME, title, bench.kind(), "/s", vec![Aim::least(LEAST_RATE)]);
    let (world, owner, changes) = (&bench.world, &bench.owner, bench.some(CHANGES));
    bench
        .rounds(NAME, async |_| {
            let start = SUBSCRIBERS.map(|name| Subscriber::start(world, owner, name));
            let subscribers = try_join_all(start).await?;
            try_join_all(subscribers.iter().map(|one| one.caught_up(bench.things))).await?;
            try_join_all(subscribers.iter().map(|one| one.settled(world))).await?;
            let asked = async || {
                let asked = subscribers.iter().map(|one| one.metric("nudge_callbacks_total"));
                try_join_all(asked).await.map(|asked| asked.into_iter().sum::<u64>())
            };
            let before = asked().await?;
            let (last, edition, pace) = bench.change(changes).await?;
            committed.add(OURS, pace);
            try_join_all(subscribers.iter().map(|one| one.has(&last, edition))).await?;
            try_join_all(subscribers.iter().map(|one| one.settled(world))).await?;
            figure.add(OURS, (asked().await? - before) as f64 / changes as f64);
            for subscriber in subscribers {
                subscriber.stop(world).await?;
            }
            Ok(())
        })
        .await?;
    Ok(vec![figure, committed])
}
