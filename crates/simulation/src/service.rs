//! The service under test, as described by its author.

use std::{collections::BTreeMap, future::Future, ops::RangeInclusive, pin::Pin, sync::Arc};

use nudge_chance::Random;
use nudge_protocol::{EntityId, Version};
use nudge_runtime::{BoxError, Database, Tx, clock};
use nudge_subscriber_kit::{Apply, Builder, EntityState, owner_client::OwnerClient};
use serde_json::Value;

/// An entity in one of its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The version.
    pub version: u64,
    /// Its state then; `None` if it was deleted.
    pub state: Option<Value>,
}

/// Entities by ID. One that is not here is not known yet.
pub type States = BTreeMap<String, State>;

/// What the simulation must know about a service and an entity that it follows: how its tables are created,
/// its `apply`, and what can be read afterwards.
pub trait Service: Send + Sync + 'static {
    /// Its `apply`, as in production.
    type Handler: Apply;

    /// The entity that it follows.
    fn entity(&self) -> &'static str;

    /// Creates its tables, except those that [`Apply::prepare`] creates.
    fn migrate(&self, db: &Database) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Ok(()) }
    }

    /// Its `apply` on this database.
    fn handler(&self, db: &Database) -> Self::Handler;

    /// Some state of an entity, as its owner returns it. Choose from few values: repeating a state, and going
    /// back and forth, finds faults. If several services follow the entity, the first decides for all. To
    /// refer to other entities, choose from [`IDS`](crate::IDS).
    fn state(&self, random: &mut Random) -> Value;

    /// What a reader sees of an entity in this state: by default, all of it.
    fn expected(&self, state: &Value) -> Value {
        state.clone()
    }

    /// Everything that a reader sees now, by ID.
    fn read(
        &self,
        tx: &mut Tx,
    ) -> impl Future<Output = Result<BTreeMap<String, Value>, sqlx::Error>> + Send;

    /// What a reader sees of several entities that the service has joined, if `states` are their states, by
    /// the name of the entity. Do not join them as the service does, or a mistake there cannot show. By
    /// default nothing is joined.
    fn joined(&self, states: &BTreeMap<&'static str, States>) -> Value {
        let _ = states;
        Value::Null
    }

    /// What a reader does see of them now. This is compared at every commit and at the end.
    fn read_joined(&self, db: &Database) -> impl Future<Output = Result<Value, BoxError>> + Send {
        let _ = db;
        async { Ok(Value::Null) }
    }
}

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What happens in a service's `apply` during a run.
pub(crate) trait Fate: Send + Sync {
    /// Before it. Returns the indices of those that it is given, or why it fails.
    fn before<'a>(
        &'a self,
        tx: &'a mut Tx,
        entities: &'a [(EntityId, u64)],
    ) -> Boxed<'a, Result<Vec<usize>, BoxError>>;

    /// It failed by itself.
    fn failed(&self, why: &BoxError);

    /// After it, in the same transaction.
    fn after(&self) -> Boxed<'_, ()>;

    /// Whether the kit can read what it wrote.
    fn may_read(&self) -> bool;
}

/// The service's own `apply`, wrapped in that.
struct Befallen<H> {
    handler: H,
    fate: Arc<dyn Fate>,
}

impl<H: Apply> Befallen<H> {
    async fn apply_these(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<H::State>],
        places: &[usize],
    ) -> Result<(), BoxError> {
        if places.len() == entities.len() {
            return self.handler.apply(tx, entities).await;
        }
        // Only a planted fault keeps something back; and a state cannot be copied.
        for place in places {
            self.handler.apply(tx, &entities[*place..=*place]).await?;
        }
        Ok(())
    }
}

impl<H: Apply> Apply for Befallen<H> {
    type State = H::State;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        self.handler.prepare(db).await
    }
    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<H::State>]) -> Result<(), BoxError> {
        let keys: Vec<_> = entities.iter().map(|e| (e.id.clone(), e.version.get())).collect();
        let given = self.fate.before(tx, &keys).await?;
        self.apply_these(tx, entities, &given).await.inspect_err(|why| self.fate.failed(why))?;
        self.fate.after().await;
        Ok(())
    }

    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        match self.fate.may_read() {
            true => self.handler.read(tx, ids).await,
            false => Ok(None),
        }
    }
}

/// A type-erased service, so that different ones can be in one run.
pub(crate) trait AnyService: Send + Sync {
    fn entity(&self) -> &'static str;
    fn migrate<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<(), BoxError>>;
    fn state(&self, random: &mut Random) -> Value;
    fn expected(&self, state: &Value) -> Value;
    fn read<'a>(
        &'a self,
        tx: &'a mut Tx,
    ) -> Boxed<'a, Result<BTreeMap<String, Value>, sqlx::Error>>;
    fn joined(&self, states: &BTreeMap<&'static str, States>) -> Value;
    fn read_joined<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<Value, BoxError>>;
    /// Whether its `apply` says how to read what it wrote.
    fn can_be_read<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<bool, BoxError>>;
    /// Writes to its tables what it would write for this state: past the kit, which knows nothing of it.
    fn edit<'a>(
        &'a self,
        db: &'a Database,
        id: &'a str,
        version: u64,
        state: Option<Value>,
    ) -> Boxed<'a, Result<(), BoxError>>;
    /// Makes a subscriber follow the entity with the service's `apply`, wrapped in that fate.
    fn follow(
        &self,
        builder: Builder,
        client: Arc<dyn OwnerClient>,
        db: &Database,
        fate: Arc<dyn Fate>,
    ) -> Builder;
}

impl<S: Service> AnyService for S {
    fn entity(&self) -> &'static str {
        Service::entity(self)
    }

    fn migrate<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<(), BoxError>> {
        Box::pin(async move {
            Service::migrate(self, db).await?;
            // Before the first copy of the read model is made, which has these tables, too.
            self.handler(db).prepare(db).await
        })
    }

    fn state(&self, random: &mut Random) -> Value {
        Service::state(self, random)
    }

    fn expected(&self, state: &Value) -> Value {
        Service::expected(self, state)
    }

    fn read<'a>(
        &'a self,
        tx: &'a mut Tx,
    ) -> Boxed<'a, Result<BTreeMap<String, Value>, sqlx::Error>> {
        Box::pin(Service::read(self, tx))
    }

    fn joined(&self, states: &BTreeMap<&'static str, States>) -> Value {
        Service::joined(self, states)
    }

    fn read_joined<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<Value, BoxError>> {
        Box::pin(Service::read_joined(self, db))
    }

    fn can_be_read<'a>(&'a self, db: &'a Database) -> Boxed<'a, Result<bool, BoxError>> {
        Box::pin(async move {
            let mut tx = db.snapshot().await?;
            Ok(self.handler(db).read(&mut tx, &(""..="")).await?.is_some())
        })
    }

    fn edit<'a>(
        &'a self,
        db: &'a Database,
        id: &'a str,
        version: u64,
        state: Option<Value>,
    ) -> Boxed<'a, Result<(), BoxError>> {
        Box::pin(async move {
            let (id, version) = (EntityId::new(id)?, Version::new(version)?);
            let (state, changed_at) =
                (state.map(serde_json::from_value).transpose()?, clock::now());
            let mut tx = db.begin().await?;
            self.handler(db)
                .apply(&mut tx, &[EntityState { id, version, changed_at, state }])
                .await?;
            Ok(tx.commit().await?)
        })
    }

    fn follow(
        &self,
        builder: Builder,
        client: Arc<dyn OwnerClient>,
        db: &Database,
        fate: Arc<dyn Fate>,
    ) -> Builder {
        builder.follow_with(
            Service::entity(self),
            client,
            Befallen { handler: self.handler(db), fate },
        )
    }
}
