//! An owner that comes back, with a budget, to a subscriber that waits for all of its things.
//!
//! After half a minute a subscriber asks as seldom as it ever does whether its owner is back, so a longer outage is no
//! other.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use nudge_runtime::BoxError;
use nudge_testbed::ports::free_port;
use tokio::time::sleep;

use super::{Bench, OURS};
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
};

pub(super) const NAME: &str = "outage";
const OUTAGE: Duration = Duration::from_secs(30);
/// Entities a second that the owner lets be asked for.
const BUDGET: NonZeroU32 = NonZeroU32::new(10_000).expect("a constant");

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let title = "changes applied after an outage, of a budget of 10,000/s";
    let aims = vec![Aim::at_most(10_250.0, None), Aim::least(9_000.0)];
    let mut pace = Figure::new(NAME, title, kind, "/s", aims);
    let title = "callbacks that failed once it was back";
    let mut failed = Figure::new(NAME, title, kind, "", vec![Aim::at_most(0.0, None)]);
    let title = "from its return to the first change applied";
    let mut first = Figure::new(NAME, title, kind, "s", Vec::new());
    let (world, outage) = (&bench.world, if bench.options.quick { OUTAGE / 10 } else { OUTAGE });
    bench
        .rounds(NAME, async |_| {
            let port = free_port();
            let subscriber = Subscriber::of_an_owner_at(world, port, "copies").await?;
            sleep(outage).await;
            let back = world.replica_at(&bench.owner, port, BUDGET).await?;
            let (is_back, before) = (Instant::now(), subscriber.failures().await?);
            let some = subscriber.begun().await?;
            let began = Instant::now();
            first.add(OURS, (began - is_back).as_secs_f64());
            subscriber.caught_up(bench.things).await?;
            pace.add(OURS, (bench.things - some) as f64 / began.elapsed().as_secs_f64());
            failed.add(OURS, (subscriber.failures().await? - before) as f64);
            subscriber.stop(world).await?;
            back.stop().await;
            Ok(())
        })
        .await?;
    Ok(vec![pace, failed, first])
}
