//! Whether everyone agrees about every store, and has come to rest.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nudge_protocol::EntityName;
use nudge_testbed::{
    Comparison,
    compare::{Asked, Entities, Thoroughness::FirstThatDiffers},
};
use sqlx::AnyPool;

use super::{SUBSCRIBERS, TRIED, World, writer::Written};
use crate::{PATIENCE, TestDatabase, eventually};

/// Pause between two comparisons.
const PACE: Duration = Duration::from_millis(50);
/// Time in which a subscriber that has not come to rest makes another call: a second look comes after 1 s.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Waits until every program that is up agrees with the owner about every store, nothing is left to do, and there are
/// no dead letters. Returns how long that took.
pub async fn converged(world: &World, written: &Written) -> Duration {
    let began = Instant::now();
    loop {
        let Err(difference) = difference(world, written).await else {
            return began.elapsed();
        };
        assert!(began.elapsed() < PATIENCE, "never the same: {difference}");
        tokio::time::sleep(PACE).await;
    }
}

/// Waits until a read model holds these versions, or newer ones. Reads its database directly, since hundreds of
/// requests would take longer than what is measured.
pub async fn applied(database: &TestDatabase, newest: &BTreeMap<String, u64>) {
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(database.url()).await.expect("a connection");
    eventually("what was written is applied", || async {
        let query = sqlx::query_as("SELECT id, version FROM nudge_applied WHERE entity = 'store'");
        let rows: Vec<(String, i64)> = query.fetch_all(&pool).await.ok()?;
        let rows: BTreeMap<_, _> = rows.into_iter().collect();
        let there = |(id, version): (&String, &u64)| rows.get(id) >= Some(&(*version as i64));
        newest.iter().all(there).then_some(())
    })
    .await;
    pool.close().await;
}

/// Waits until the calls to the owner stop.
pub async fn silent(world: &World) {
    let began = Instant::now();
    loop {
        let before = world.asked().await;
        tokio::time::sleep(SILENCE).await;
        if world.asked().await == before {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the calls never end");
    }
}

/// A difference, if there is one.
pub async fn difference(world: &World, written: &Written) -> Result<(), String> {
    let stores = same(&comparison(world), written).await?;
    for service in SUBSCRIBERS {
        for (name, _) in world.roster.up(service) {
            at_rest(world, name, stores.len()).await?;
        }
    }
    Ok(())
}

/// Fails if a text index differs from the owner's stores. Everything else must be equal already.
pub async fn found_by_text(world: &World, written: &Written) {
    let comparison = comparison(world);
    let stores = same(&comparison, written).await.expect("all say the same");
    let differences = comparison.look_closely(&stores).await.expect("search answers");
    assert_eq!(differences, [], "what search finds by text");
}

/// The programs that are up.
fn comparison(world: &World) -> Comparison {
    let up = |service| {
        let asked = move |(name, place): (&str, super::Place)| Asked {
            name: name.to_owned(),
            service: Some(service),
            url: place.url,
        };
        world.roster.up(service).into_iter().map(asked)
    };
    Comparison::new(TRIED.into_iter().flat_map(up).collect())
}

/// The owner's state of every store, if all others agree.
async fn same(comparison: &Comparison, written: &Written) -> Result<Entities, String> {
    let store = EntityName::new("store").expect("a good name");
    let newest = written.newest.iter();
    let newest = newest.map(|(id, version)| ((store.clone(), crate::id(id)), *version));
    let (stores, differences) = comparison.look(&newest.collect(), FirstThatDiffers).await?;
    match differences.first() {
        None => Ok(stores),
        Some(first) => Err(first.to_string()),
    }
}

/// Whether a subscriber has nothing left to do and reaches everyone.
async fn at_rest(world: &World, name: &str, stores: usize) -> Result<(), String> {
    let status = world.status(name).await.ok_or(format!("{name}: no status"))?;
    let nothing = ["queued", "processing", "retrying", "parked", "dead_letters", "stream_pending"];
    let idle = nothing.iter().all(|figure| status[*figure] == 0);
    let well = status["breaker"] == "closed" && status["connected"] == true;
    match idle && well && status["applied"] == stores {
        true => Ok(()),
        false => Err(format!("{name}: {stores} stores are owned, and {status}")),
    }
}
