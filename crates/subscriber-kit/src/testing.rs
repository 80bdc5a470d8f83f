//! For a service's own tests: states into a read model, requests to its endpoints, without a broker or an owner.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use nudge_protocol::{EntityId, EntityName, Version};
use nudge_runtime::{Database, clock, database::Durability};
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    apply::{Apply, EntityState},
    read_model::{
        guard::{Applied, Applier},
        recent::Recent,
    },
    subscriber::Subscriber,
};

/// Longest answer that [`ask`] reads, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A read model that is filled by hand, through the same guarded write as in production.
pub struct ReadModel<A> {
    /// Where it is kept.
    pub database: Database,
    applier: Applier<A>,
    version: AtomicU64,
}

impl<A: Apply> ReadModel<A> {
    /// An empty one, in memory.
    ///
    /// # Panics
    /// If its tables cannot be made.
    pub async fn new(handler: A) -> Self {
        let database = Database::open("sqlite::memory:", Durability::Refillable).await;
        Self::on(database.expect("SQLite in memory"), handler).await
    }

    /// The one in this database, which is made if it is not there.
    ///
    /// # Panics
    /// If its tables cannot be made.
    pub async fn on(database: Database, handler: A) -> Self {
        Subscriber::migrate(&database).await.expect("the tables of the kit can be made");
        handler.prepare(&database).await.expect("the tables of the read model can be made");
        let entity = EntityName::new("entity").expect("it is a name");
        let recent = Arc::new(Recent::new(database.clone(), entity.clone()));
        let applier = Applier::new(database.clone(), entity, handler, recent);
        Self { database, applier, version: AtomicU64::new(0) }
    }

    /// The owner's state of an entity is this now.
    ///
    /// # Panics
    /// If the ID is malformed, the handler cannot read the state, or refuses it.
    pub async fn put(&self, id: &str, state: Value) {
        let state = serde_json::from_value(state).expect("a state as the handler reads it");
        self.apply(id, Some(state)).await;
    }

    /// The owner has deleted an entity.
    ///
    /// # Panics
    /// If the ID is malformed, or the handler refuses the deletion.
    pub async fn delete(&self, id: &str) {
        self.apply(id, None).await;
    }

    async fn apply(&self, id: &str, state: Option<A::State>) {
        let id = EntityId::new(id).expect("an id");
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let version = Version::new(version).expect("few changes");
        let state = EntityState { id, version, changed_at: clock::now(), state };
        let applied = self.applier.apply(&mut [state]).await;
        assert!(matches!(applied[..], [(_, Applied::Newer)]), "it was not applied: {applied:?}");
    }
}

impl<A> std::fmt::Debug for ReadModel<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadModel").field("database", &self.database).finish_non_exhaustive()
    }
}

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("an answer in JSON")
    }
}

/// Asks for a path of these routes.
///
/// # Panics
/// If `path` is not a path, and as [`ask`].
pub async fn get(routes: impl Into<Router>, path: &str) -> Answer {
    ask(routes, Request::get(path).body(Body::empty()).expect("a path")).await
}

/// Sends any request to these routes.
///
/// # Panics
/// If the answer is not text, or is longer than 64 MiB.
pub async fn ask(routes: impl Into<Router>, request: Request<Body>) -> Answer {
    let Ok(answer) = routes.into().oneshot(request).await;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), MAX_ANSWER_BYTES).await.expect("a whole answer");
    Answer { status, body: String::from_utf8(body.to_vec()).expect("an answer in UTF-8") }
}
