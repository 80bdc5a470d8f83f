//! PostgreSQL's logical replication of the owner's table. It copies rows, and knows of no API, no guard and no other database;
//! the row arrives as the owner has it.

use std::time::{Duration, Instant};

use nudge_runtime::{BoxError, Database, database::Durability};
use nudge_testbed::{TestDatabase, database::execute, eventually};
use sqlx::AssertSqlSafe;

use crate::world::{Owner, World};

/// Pause between two looks at the copy.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A subscription to an owner's table. Ended when stopped.
pub(crate) struct Subscription {
    /// The database with the copy, in the table `thing`.
    pub(crate) db: Database,
    database: TestDatabase,
    name: String,
}

impl Subscription {
    /// Announces what is published from now on to a subscription that does not take it yet.
    pub(crate) async fn new(world: &World, owner: &Owner) -> Result<Self, BoxError> {
        let database = world.database().await;
        let name = database.url().rsplit('/').next().unwrap_or_default().to_owned();
        let (url, slot) = (owner.database.url(), format!("slot_{name}"));
        execute(url, &format!("CREATE PUBLICATION {name} FOR TABLE thing")).await;
        // Within one server, the subscription cannot make it by itself.
        execute(url, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
            .await;
        let table = "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY, state TEXT NOT NULL)";
        execute(database.url(), table).await;
        let db = Database::open(database.url(), Durability::Refillable).await?;
        Ok(Self { db, database, name })
    }

    /// Takes what was published, and whatever follows.
    pub(crate) async fn begin(&self, owner: &Owner) {
        let Self { name, .. } = self;
        let sql = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION {name} \
             WITH (create_slot = false, slot_name = 'slot_{name}', copy_data = false)",
            owner.database.url(),
        );
        execute(self.database.url(), &sql).await;
    }

    /// Ends it.
    pub(crate) async fn stop(self, owner: &Owner) {
        let Self { name, .. } = &self;
        self.db.close().await;
        execute(self.database.url(), &format!("DROP SUBSCRIPTION {name}")).await;
        execute(owner.database.url(), &format!("DROP PUBLICATION {name}")).await;
    }

    /// How many rows the copy has.
    async fn count(&self) -> Result<usize, BoxError> {
        let sql = "SELECT count(*) FROM thing";
        let query = sqlx::query_as::<_, (i64,)>(AssertSqlSafe(sql));
        let (count,) = query.fetch_one(self.db.reader()).await?;
        Ok(usize::try_from(count)?)
    }
}

/// How many things a second it takes over, of `count` that were changed while nobody took them.
pub(crate) async fn drain(world: &World, owner: &Owner, count: usize) -> Result<f64, BoxError> {
    let subscription = Subscription::new(world, owner).await?;
    owner.fill(count, 1).await?;
    let began = Instant::now();
    subscription.begin(owner).await;
    eventually("everything is replicated", || async {
        tokio::time::sleep(LOOK_INTERVAL).await;
        (subscription.count().await.ok()? >= count).then_some(())
    })
    .await;
    let pace = count as f64 / began.elapsed().as_secs_f64();
    subscription.stop(owner).await;
    Ok(pace)
}
