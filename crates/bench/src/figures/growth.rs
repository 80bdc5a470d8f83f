//! The same drain with more replicas, more subscribers and more entities.

use std::sync::Arc;

use futures_util::future::try_join_all;
use nudge_runtime::BoxError;

use super::{Bench, Run};
use crate::{
    report::Figure,
    subscriber::Subscriber,
    world::{Owner, World},
};

pub(super) const NAME: &str = "growth";
const REPLICAS: [(&str, usize); 3] = [("1 replica", 1), ("2 replicas", 2), ("4 replicas", 4)];
const SUBSCRIBERS: [(&str, usize); 3] =
    [("1 subscriber", 1), ("5 subscribers", 5), ("20 subscribers", 20)];
/// Things that each of them drains.
const FEWER_THINGS: usize = 20_000;
const NAMES: [&str; 20] = [
    "copies-a", "copies-b", "copies-c", "copies-d", "copies-e", "copies-f", "copies-g", "copies-h",
    "copies-i", "copies-j", "copies-k", "copies-l", "copies-m", "copies-n", "copies-o", "copies-p",
    "copies-q", "copies-r", "copies-s", "copies-t",
];
const ENTITIES: [(&str, usize); 3] =
    [("10,000 entities", 10_000), ("100,000 entities", 100_000), ("1,000,000 entities", 1_000_000)];

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    Ok(vec![replicas(bench).await?, subscribers(bench).await?, entities(bench).await?])
}

fn figure(run: &Run<'_>, title: &'static str) -> Figure {
    Figure::new(NAME, title, run.kind(), "/s", Vec::new())
}

/// Replicas share what there is to do.
async fn replicas(bench: &Bench<'_>) -> Result<Figure, BoxError> {
    let mut figure = figure(bench, "changes drained by one subscriber of");
    let (world, owner) = (&bench.world, &bench.owner);
    bench
        .rounds("growth, replicas,", async |_| {
            for (label, count) in REPLICAS {
                let database = Arc::new(world.database().await);
                let start = (0..count)
                    .map(|_| Subscriber::start_on(world, owner, "copies", database.clone()));
                let replicas = try_join_all(start).await?;
                figure.add(label, replicas[0].drained(bench.things).await?);
                Subscriber::stop_all(replicas, world).await?;
            }
            Ok(())
        })
        .await?;
    Ok(figure)
}

/// Each subscriber does all there is to do.
async fn subscribers(bench: &Bench<'_>) -> Result<Figure, BoxError> {
    let mut figure = figure(bench, "changes applied, all together, by");
    let (world, things) = (World::start(bench.kind()).await?, bench.some(FEWER_THINGS));
    let owner = world.owner().await?;
    owner.fill(things, 0).await?;
    bench
        .rounds("growth, subscribers,", async |_| {
            for (label, count) in SUBSCRIBERS {
                let start =
                    NAMES[..count].iter().map(|name| Subscriber::start(&world, &owner, name));
                let subscribers = try_join_all(start).await?;
                let drained = try_join_all(subscribers.iter().map(|one| one.drained(things)));
                figure.add(label, drained.await?.iter().sum());
                Subscriber::stop_all(subscribers, &world).await?;
            }
            Ok(())
        })
        .await?;
    owner.stop().await;
    Ok(figure)
}

/// What one subscriber finds at its start.
async fn entities(bench: &Bench<'_>) -> Result<Figure, BoxError> {
    let mut figure = figure(bench, "changes drained by one subscriber, of");
    let mut owners = Vec::new();
    for (label, count) in ENTITIES {
        (bench.progress)(&format!("{NAME}: an owner of {label}"));
        let (world, count) = (World::start(bench.kind()).await?, bench.some(count));
        let owner = world.owner().await?;
        owner.fill(count, 0).await?;
        owners.push((label, count, world, owner));
    }
    bench
        .rounds("growth, entities,", async |_| {
            for (label, count, world, owner) in &owners {
                figure.add(label, drained(world, owner, *count).await?);
            }
            Ok(())
        })
        .await?;
    for (.., owner) in owners {
        owner.stop().await;
    }
    Ok(figure)
}

async fn drained(world: &World, owner: &Owner, count: usize) -> Result<f64, BoxError> {
    let subscriber = Subscriber::start(world, owner, "copies").await?;
    let pace = subscriber.drained(count).await?;
    subscriber.stop(world).await?;
    Ok(pace)
}
