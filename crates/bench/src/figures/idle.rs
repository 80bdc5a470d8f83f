//! From the owner's commit to the readable row, while nothing else happens.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use nudge_runtime::{BoxError, database::Kind};
use tokio::sync::Notify;

use super::{Bench, OURS};
use crate::{
    lag::{Reader, Schedule, lags},
    peers::{ReadModel, bare::Bare, logical::Subscription},
    report::{Aim, Figure},
    security::Access,
    subscriber::Subscriber,
    world::Owner,
};

pub(super) const NAME: &str = "idle";
const BARE: &str = "bare hops";
const LOGICAL: &str = "logical replication";
const TLS: &str = "nudge, tokens and TLS";
/// Changes of each contestant in each round, and the time between two.
const CHANGES: usize = 400;
const INTERVAL: Duration = Duration::from_millis(10);

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let title = "commit to readable, idle, p50";
    let mut p50 = Figure::new(NAME, title, kind, "ms", vec![Aim::at_most(1.5, Some(BARE))]);
    let mut aims = vec![Aim::at_most(5.0, None)];
    if kind == Kind::Postgres {
        aims.push(Aim::at_most(2.0, Some(LOGICAL)));
    }
    let mut p99 = Figure::new(NAME, "commit to readable, idle, p99", kind, "ms", aims);
    let mut add = |label, lags: Histogram<u64>| {
        p50.add(label, milliseconds(&lags, 0.5));
        p99.add(label, milliseconds(&lags, 0.99));
    };
    bench
        .rounds(NAME, async |_| {
            add(OURS, kit(bench, &bench.owner).await?);
            add(BARE, bare(bench).await?);
            if kind == Kind::Postgres {
                add(LOGICAL, logical(bench).await?);
            }
            // Its relay would run beside the others.
            let tls = bench.world.replica(&bench.owner, Access::TokensAndTls).await?;
            add(TLS, kit(bench, &tls).await?);
            tls.stop().await;
            Ok(())
        })
        .await?;
    Ok(vec![p50, p99])
}

/// The value below which this share of them is.
pub(super) fn milliseconds(lags: &Histogram<u64>, share: f64) -> f64 {
    lags.value_at_quantile(share) as f64 / 1e3
}

fn schedule(bench: &Bench<'_>) -> Schedule {
    Schedule { changes: bench.some(CHANGES), interval: INTERVAL }
}

async fn kit(bench: &Bench<'_>, owner: &Owner) -> Result<Histogram<u64>, BoxError> {
    let subscriber = Subscriber::start(&bench.world, owner, "copies").await?;
    subscriber.caught_up(bench.things).await?;
    let write = async |id: String, edition| owner.write(&[id], edition).await;
    let lags = lags(&subscriber.reader(), schedule(bench), write).await?;
    subscriber.stop(&bench.world).await?;
    Ok(lags)
}

async fn bare(bench: &Bench<'_>) -> Result<Histogram<u64>, BoxError> {
    let bare = Arc::new(Bare::start(&bench.world).await?);
    let (model, commits) = (ReadModel::new(&bench.world).await?, Arc::new(Notify::new()));
    let reader = Reader {
        db: model.db.clone(),
        table: "copy".to_owned(),
        edition: "edition",
        commits: Some(commits.clone()),
    };
    let tasks = bare.clone().follow(Arc::new(model), commits).await?;
    let write = async |id, edition| bare.write(id, edition).await;
    let lags = lags(&reader, schedule(bench), write).await;
    drop(tasks);
    lags
}

async fn logical(bench: &Bench<'_>) -> Result<Histogram<u64>, BoxError> {
    let subscription = Subscription::new(&bench.world, &bench.owner).await?;
    subscription.begin(&bench.owner).await;
    let write = async |id, edition| subscription.write(id, edition).await;
    let lags = lags(&subscription.reader(), schedule(bench), write).await;
    subscription.stop(&bench.owner).await;
    lags
}
