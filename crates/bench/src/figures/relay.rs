//! How many pending rows a second the relay publishes.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream::iter};
use nudge_protocol::{Change, EntityId, EntityName};
use nudge_publisher::Publisher;
use nudge_runtime::{BoxError, Database, database::Durability};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Bench, OURS};
use crate::{
    PATIENCE,
    report::{Aim, Figure},
    thing::{id, notification},
    world::World,
};

pub(super) const NAME: &str = "relay";
const BARE: &str = "bare publishes";
/// Rows in each round.
const ROWS: usize = 40_000;
/// Rows recorded in one transaction.
const AT_A_TIME: usize = 1_000;
/// Publishes whose acknowledgements are awaited at a time: as many as the relay's.
const IN_FLIGHT: usize = nudge_publisher::relay::MAX_ROWS_PER_ROUND;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let aims = vec![Aim::at_least(0.8, BARE)];
    let title = "pending rows published by the relay";
    let mut figure = Figure::new(NAME, title, bench.kind(), "/s", aims);
    let rows = bench.some(ROWS);
    bench
        .rounds(NAME, async |round| {
            figure.add(OURS, relay(bench, rows, &format!("pebble_{round}")).await?);
            figure.add(BARE, bare(bench, rows, &format!("BARE_{round}")).await?);
            Ok(())
        })
        .await?;
    Ok(vec![figure])
}

async fn relay(bench: &Bench<'_>, rows: usize, entity: &str) -> Result<f64, BoxError> {
    let (database, stop) = (bench.world.database().await, CancellationToken::new());
    let db = Database::open(database.url(), Durability::Full).await?;
    let publisher = Publisher::open(&db, EntityName::new(entity)?).await?;
    for first in (0..rows).step_by(AT_A_TIME) {
        let change = |n| Ok((EntityId::new(&id(n))?, Change::Updated));
        let changes =
            (first..first + AT_A_TIME).map(change).collect::<Result<Vec<_>, BoxError>>()?;
        let mut tx = publisher.begin().await?;
        publisher.record_all(&mut tx, &changes).await?;
        tx.commit().await?;
    }
    let broker = bench.world.nats.broker("pebbles").await;
    let relay = publisher.spawn_relay(&broker, stop.clone());
    let published = async |least: u64| loop {
        match publisher.health().published {
            enough if enough >= least => return enough,
            _ => sleep(LOOK_INTERVAL).await,
        }
    };
    // The other's stream is there when it begins.
    let first = timeout(PATIENCE, published(1)).await?;
    let began = Instant::now();
    timeout(PATIENCE, published(rows as u64)).await?;
    let pace = (rows as u64 - first) as f64 / began.elapsed().as_secs_f64();
    stop.cancel();
    relay.await?;
    db.close().await;
    bench.world.jetstream().await.delete_stream(format!("CHANGES_{entity}")).await?;
    Ok(pace)
}

async fn bare(bench: &Bench<'_>, rows: usize, name: &str) -> Result<f64, BoxError> {
    let jetstream = bench.world.jetstream().await;
    World::peers_stream(&jetstream, name).await?;
    let publish = async |n: usize| {
        let id = id(n);
        jetstream.publish(format!("{name}.{id}"), notification(&id).into()).await?.await?;
        Ok::<_, BoxError>(())
    };
    let began = Instant::now();
    iter(0..rows).map(publish).buffered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
    let pace = rows as f64 / began.elapsed().as_secs_f64();
    jetstream.delete_stream(name).await?;
    Ok(pace)
}
