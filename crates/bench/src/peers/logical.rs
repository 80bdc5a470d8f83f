//! PostgreSQL's logical replication of a table. It copies rows, and knows of no API, no guard and no other database; the row
//! arrives as the owner has it.

use std::time::Instant;

use nudge_runtime::{BoxError, Database, database::Durability};
use nudge_testbed::{TestDatabase, database::execute};
use sqlx::AssertSqlSafe;

use crate::{
    found,
    lag::Reader,
    thing::Thing,
    world::{Owner, World},
};

/// A subscription to a table of its own in an owner's database.
pub(crate) struct Subscription {
    source: Database,
    copy: Database,
    database: TestDatabase,
    name: String,
}

impl Subscription {
    /// Announces what is written from now on to a subscription that does not take it yet.
    pub(crate) async fn new(world: &World, owner: &Owner) -> Result<Self, BoxError> {
        let database = world.database().await;
        let name = database.url().rsplit('/').next().unwrap_or_default().to_owned();
        let url = owner.database.url();
        let table = format!(
            "CREATE TABLE src_{name} (id TEXT COLLATE \"C\" PRIMARY KEY, state TEXT NOT NULL)"
        );
        execute(url, &table).await;
        execute(url, &format!("CREATE PUBLICATION {name} FOR TABLE src_{name}")).await;
        // Within one server, the subscription cannot make it by itself.
        let made = format!("pg_create_logical_replication_slot('slot_{name}', 'pgoutput')");
        execute(url, &format!("SELECT lsn::text FROM {made}")).await;
        execute(database.url(), &table).await;
        let source = Database::open(url, Durability::Full).await?;
        let copy = Database::open(database.url(), Durability::Refillable).await?;
        Ok(Self { source, copy, database, name })
    }

    /// Takes what was written, and whatever follows.
    pub(crate) async fn begin(&self, owner: &Owner) {
        let Self { name, .. } = self;
        let sql = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION {name} \
             WITH (create_slot = false, slot_name = 'slot_{name}', copy_data = false)",
            owner.database.url(),
        );
        execute(self.database.url(), &sql).await;
    }

    /// Writes a row in a transaction of its own.
    pub(crate) async fn write(&self, id: String, edition: i64) -> Result<(), BoxError> {
        let sql = format!(
            "INSERT INTO src_{} (id, state) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state",
            self.name,
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(Thing::text(edition));
        self.source.write(query).await?;
        Ok(())
    }

    /// How the copy is read.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            db: self.copy.clone(),
            table: format!("src_{}", self.name),
            edition: "(state::json ->> 'edition')::bigint",
            commits: None,
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self, owner: &Owner) {
        let Self { name, .. } = &self;
        self.copy.close().await;
        self.source.close().await;
        execute(self.database.url(), &format!("DROP SUBSCRIPTION {name}")).await;
        execute(owner.database.url(), &format!("DROP PUBLICATION {name}")).await;
        execute(owner.database.url(), &format!("DROP TABLE src_{name}")).await;
    }

    /// How many rows the copy has.
    async fn count(&self) -> Result<usize, BoxError> {
        let sql = format!("SELECT count(*) FROM src_{}", self.name);
        let query = sqlx::query_as::<_, (i64,)>(AssertSqlSafe(sql));
        let (count,) = query.fetch_one(self.copy.reader()).await?;
        Ok(usize::try_from(count)?)
    }
}

/// How many rows a second it takes over, of `count` that were written while nobody took them: from the first to the last, like the
/// kit's. It applies a transaction at once, and these have 500 rows each.
pub(crate) async fn drain(world: &World, owner: &Owner, count: usize) -> Result<f64, BoxError> {
    let subscription = Subscription::new(world, owner).await?;
    for first in (0..count).step_by(500) {
        let sql = format!(
            "INSERT INTO src_{} SELECT 'thing-' || n, $1 FROM generate_series({first}, {}) AS n",
            subscription.name,
            count.min(first + 500) - 1,
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(Thing::text(0));
        subscription.source.write(query).await?;
    }
    subscription.begin(owner).await;
    let first = found("replication begins", || async {
        subscription.count().await.ok().filter(|count| *count > 0)
    })
    .await?;
    let (began, reader, last) =
        (Instant::now(), subscription.reader(), format!("thing-{}", count - 1));
    // Its transactions come in their order.
    found("everything is replicated", || async { reader.edition(&last).await.ok()? }).await?;
    let pace = (count - first) as f64 / began.elapsed().as_secs_f64();
    subscription.stop(owner).await;
    Ok(pace)
}
