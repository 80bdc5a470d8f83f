//! What recording a change costs the owner's write.

use std::time::Instant;

use nudge_protocol::{Change, EntityId, EntityName};
use nudge_publisher::{Publisher, capture::Tables};
use nudge_runtime::{
    BoxError, Database,
    database::{Durability, Kind},
};
use nudge_testbed::TestDatabase;

use super::Bench;
use crate::{
    report::{Aim, Figure},
    thing::{ENTITY, id},
    world::{MIGRATIONS, put},
};

pub(super) const NAME: &str = "write";
const CAPTURED: &str = "captured by triggers";
const RECORDED: &str = "recorded by the service";
const PLAIN: &str = "neither";
/// Transactions of one row in each round, and how many are under way at a time.
const WRITES: usize = 2_000;
const WRITERS: usize = 4;

/// A database of things, without a relay.
struct Store {
    /// If the service records its changes itself.
    recorder: Option<Publisher>,
    db: Database,
    _database: TestDatabase,
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let aims = match bench.kind() {
        Kind::Postgres => vec![Aim::at_least(0.85, PLAIN)],
        Kind::Sqlite => Vec::new(),
    };
    let title = "single-row writes of the owner";
    let mut figure = Figure::new(NAME, title, bench.kind(), "/s", aims);
    let mut stores = Vec::new();
    for label in [CAPTURED, RECORDED, PLAIN] {
        stores.push((label, Store::new(bench, label).await?));
    }
    bench
        .rounds(NAME, async |round| {
            for (label, store) in &stores {
                figure.add(label, store.pace(bench.some(WRITES), round).await?);
            }
            Ok(())
        })
        .await?;
    Ok(vec![figure])
}

impl Store {
    async fn new(bench: &Bench<'_>, label: &str) -> Result<Self, BoxError> {
        let database = bench.world.database().await;
        let db = Database::open(database.url(), Durability::Full).await?;
        db.migrate("things", MIGRATIONS).await?;
        let mut recorder = None;
        if label != PLAIN {
            let publisher = Publisher::open(&db, EntityName::new(ENTITY)?).await?;
            match label {
                CAPTURED => drop(publisher.capture(&Tables::root("thing", "id")).await?),
                _ => recorder = Some(publisher),
            }
        }
        Ok(Self { recorder, db, _database: database })
    }

    /// How many writes a second several writers get done.
    async fn pace(&self, writes: usize, round: usize) -> Result<f64, BoxError> {
        let began = Instant::now();
        let one = async |first: usize| {
            for n in (first..writes).step_by(WRITERS) {
                self.write(id(n), round as i64).await?;
            }
            Ok::<_, BoxError>(())
        };
        tokio::try_join!(one(0), one(1), one(2), one(3))?;
        Ok(writes as f64 / began.elapsed().as_secs_f64())
    }

    async fn write(&self, id: String, edition: i64) -> Result<(), BoxError> {
        let mut tx = self.db.begin().await?;
        put(&mut tx, std::slice::from_ref(&id), edition).await?;
        if let Some(publisher) = &self.recorder {
            publisher.record(&mut tx, &EntityId::new(&id)?, Change::Updated).await?;
        }
        Ok(tx.commit().await?)
    }
}
