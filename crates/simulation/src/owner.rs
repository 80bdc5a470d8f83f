//! A simulated owner: the real publisher and its real sync API, for each entity that it has.

pub(crate) mod client;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use axum::Router;
use nudge_protocol::{Change, EntityId, EntityName};
use nudge_publisher::Publisher;
use nudge_runtime::{BoxError, Database, Tx, database::Migration, set_sql};
use parking_lot::Mutex;
use serde_json::{Value, value::RawValue};

use crate::{fault::Fault, history::History, plan::RELAY, world::World};

/// Longest time that the owner is away.
const LONGEST_OUTAGE: Duration = Duration::from_secs(40);

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "entities",
    sqlite: "CREATE TABLE owned (\
             entity TEXT, id TEXT, state TEXT NOT NULL, PRIMARY KEY (entity, id))",
    postgres: "CREATE TABLE owned (\
               entity TEXT, id TEXT COLLATE \"C\", state TEXT NOT NULL, PRIMARY KEY (entity, id))",
}];

/// What an owner has of one entity.
pub(crate) struct Owned {
    pub(crate) entity: EntityName,
    pub(crate) publisher: Publisher,
    pub(crate) history: Arc<History>,
}

/// See the module documentation.
pub(crate) struct Owner {
    /// Its name in stories.
    pub(crate) name: String,
    /// The name of its relays there.
    pub(crate) relay: String,
    pub(crate) db: Database,
    pub(crate) entities: Vec<Arc<Owned>>,
    pub(crate) backed_up: AtomicBool,
    back_at: Mutex<Duration>,
}

/// The result of an edit for each ID of the entity at this place: a state, or `None` if it is deleted.
pub(crate) type Changes = BTreeMap<(usize, String), Option<Value>>;

impl Owner {
    /// An owner of these on an empty database. If there are several entities in the run, their IDs are told
    /// with their names; if there are several owners, this one is told with its own: that of its entity.
    pub(crate) async fn open(
        world: &Arc<World>,
        db: Database,
        names: Vec<EntityName>,
        (several_entities, several_owners): (bool, bool),
    ) -> Arc<Self> {
        db.migrate("entities", MIGRATIONS).await.expect("the tables are made");
        let (name, relay) = match several_owners {
            true => (format!("the owner of {}", names[0]), format!("{}-{RELAY}", names[0])),
            false => ("the owner".to_owned(), RELAY.to_owned()),
        };
        let mut entities = Vec::new();
        for entity in names {
            let publisher = Publisher::open(&db, entity.clone()).await.expect("it opens");
            let (world, db) = (world.clone(), db.clone());
            let history = History::new(world, db, entity.clone(), several_entities);
            entities.push(Arc::new(Owned { entity, publisher, history }));
        }
        let (backed_up, back_at) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { name, relay, db, entities, backed_up, back_at })
    }

    /// Its side of the sync API.
    pub(crate) fn api(&self, owned: &Owned) -> Router {
        let (db, entity) = (self.db.clone(), owned.entity.clone());
        owned.publisher.sync_api(Entities { db, entity })
    }

    /// Whether it is away. It may go away at this moment.
    pub(crate) fn is_down(&self, world: &World) -> bool {
        let mut back_at = self.back_at.lock();
        if world.strikes(Fault::OwnerDown) {
            let pause = world.length_of(Fault::OwnerDown, LONGEST_OUTAGE);
            world.tell(format!("{} is away for {pause:?}", self.name));
            *back_at = world.elapsed() + pause;
        }
        !world.is_healed() && world.elapsed() < *back_at
    }

    /// Changes several entities in one transaction. Answers with their versions; or with none, if the owner
    /// ends at that place in it.
    pub(crate) async fn write(
        &self,
        changes: &Changes,
        ends_at: Option<usize>,
    ) -> Result<Option<Vec<u64>>, sqlx::Error> {
        let mut tx = self.db.begin().await?;
        let mut versions = Vec::new();
        for (n, ((at, id), state)) in changes.iter().enumerate() {
            let Owned { entity, publisher, .. } = &*self.entities[*at];
            let (sql, change) = match state {
                Some(_) => (
                    "INSERT INTO owned VALUES ($1, $2, $3) \
                     ON CONFLICT (entity, id) DO UPDATE SET state = excluded.state",
                    Change::Updated,
                ),
                None => ("DELETE FROM owned WHERE entity = $1 AND id = $2", Change::Deleted),
            };
            let query = sqlx::query(sql).bind(entity.to_string()).bind(id.clone());
            match state {
                Some(state) => query.bind(state.to_string()).execute(&mut *tx).await?,
                None => query.execute(&mut *tx).await?,
            };
            if ends_at == Some(2 * n) {
                return Ok(None);
            }
            let key = EntityId::new(id).expect("a good id");
            versions.push(publisher.record(&mut tx, &key, change).await?.get());
            if ends_at == Some(2 * n + 1) {
                return Ok(None);
            }
        }
        tx.commit().await?;
        self.entities.iter().for_each(|owned| owned.publisher.wake());
        Ok(Some(versions))
    }
}

/// The states of one entity, for the sync API.
struct Entities {
    db: Database,
    entity: EntityName,
}

impl nudge_publisher::Owner for Entities {
    type State = Box<RawValue>;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let ids_sql = set_sql::strings(self.db.kind(), "$1");
        let sql = format!("SELECT id, state FROM owned WHERE entity = $2 AND id IN {ids_sql}");
        let rows: Vec<(String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(serde_json::to_string(ids)?)
            .bind(self.entity.to_string())
            .fetch_all(&mut **tx)
            .await?;
        let row = |(id, state): (String, String)| {
            Ok((EntityId::new(&id)?, RawValue::from_string(state)?))
        };
        rows.into_iter().map(row).collect()
    }
}
