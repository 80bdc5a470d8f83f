//! For a service's own tests: hand states to a read model and send requests to endpoints, without a broker or an owner.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use nudge_protocol::{EntityId, EntityName, Version, admin::AppliedVersion};
use nudge_runtime::{Database, clock, database::Durability};
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    apply::{Apply, EntityState},
    read_model::{
        applied::Waiters,
        contents::Altered,
        guard::{Applied, Applier},
        recent::Recent,
    },
    subscriber::Subscriber,
};

/// Largest answer that [`ask`] reads, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A read model that a test fills by hand, through the same guard as in production.
pub struct ReadModel<A> {
    /// Its database.
    pub database: Database,
    entity: EntityName,
    applier: Applier<A>,
    version: AtomicU64,
}

impl<A: Apply> ReadModel<A> {
    /// An empty read model, in memory.
    ///
    /// # Panics
    /// If its tables cannot be created.
    pub async fn new(handler: A) -> Self {
        let database = Database::open("sqlite::memory:", Durability::Refillable).await;
        Self::on(database.expect("SQLite in memory"), handler).await
    }

    /// The read model in this database, which is created if it does not exist.
    ///
    /// # Panics
    /// If its tables cannot be created.
    pub async fn on(database: Database, handler: A) -> Self {
        Self::of(database, "entity", handler).await
    }

    /// The read model of this entity in a database that may hold others, too.
    ///
    /// # Panics
    /// If its tables cannot be created, or the name is invalid.
    pub async fn of(database: Database, entity: &str, handler: A) -> Self {
        Subscriber::migrate(&database).await.expect("the kit's tables can be created");
        handler.prepare(&database).await.expect("the read model's tables can be created");
        let entity = EntityName::new(entity).expect("a valid name");
        let recent = Arc::new(Recent::new(database.clone(), entity.clone()));
        let applier = Applier::new(database.clone(), entity.clone(), handler, recent);
        Self { database, entity, applier, version: AtomicU64::new(0) }
    }

    /// Sets the owner's state of an entity.
    ///
    /// # Panics
    /// If the ID is invalid, or if the handler cannot read the state or refuses it.
    pub async fn put(&self, id: &str, state: Value) {
        let state = serde_json::from_value(state).expect("a state that the handler can read");
        self.apply(id, Some(state)).await;
    }

    /// Deletes an entity at the owner.
    ///
    /// # Panics
    /// If the ID is invalid, or the handler refuses the deletion.
    pub async fn delete(&self, id: &str) {
        self.apply(id, None).await;
    }

    /// Whether the tables hold what the handler writes for this state of an entity, as [`Apply::read`] shows: the check
    /// that finds edits by hand. `false` if the entity is not applied.
    ///
    /// # Panics
    /// If the ID is invalid, the handler cannot read the state, or it does not define [`Apply::read`].
    pub async fn holds(&self, id: &str, state: Value) -> bool {
        let state = serde_json::from_value(state).expect("a state that the handler can read");
        let id = EntityId::new(id).expect("a valid ID");
        let waiters = Waiters::new(self.database.clone(), self.entity.clone());
        let applied = waiters.applied(&id).await.expect("the database works");
        let Some(AppliedVersion { version, .. }) = applied else { return false };
        let (ids, changed_at) = ([id.as_str()..=id.as_str()], clock::now());
        let mut states = [EntityState { id: id.clone(), version, changed_at, state: Some(state) }];
        let altered = self.applier.altered(&ids, &mut states).await;
        let altered = altered.expect("it can be read").expect("the handler defines `read`");
        altered == Altered { compared: 1, ..Altered::default() }
    }

    async fn apply(&self, id: &str, state: Option<A::State>) {
        let id = EntityId::new(id).expect("a valid ID");
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let version = Version::new(version).expect("few changes");
        let state = EntityState { id, version, changed_at: clock::now(), state };
        let applied = self.applier.apply(&mut [state]).await;
        assert!(matches!(applied[..], [(_, Applied::Newer)]), "not applied: {applied:?}");
    }
}

impl<A> std::fmt::Debug for ReadModel<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadModel").field("database", &self.database).finish_non_exhaustive()
    }
}

/// The answer of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, as text.
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

/// Sends a GET request for `path` to these routes.
///
/// # Panics
/// If `path` is not a valid path, and in the cases of [`ask`].
pub async fn get(routes: impl Into<Router>, path: &str) -> Answer {
    send(routes, Method::GET, path, None).await
}

/// Sends a request to these routes, with a body of JSON if there is one.
///
/// ```
/// use nudge_subscriber_kit::axum::{Json, Router, http::Method, routing::post};
/// use nudge_subscriber_kit::serde_json::{Value, json};
/// use nudge_subscriber_kit::testing::send;
///
/// # #[nudge_subscriber_kit::tokio::main(crate = "nudge_subscriber_kit::tokio")]
/// # async fn main() {
/// let routes: Router = Router::new().route("/echo", post(async |Json(body): Json<Value>| Json(body)));
/// let answer = send(routes.clone(), Method::POST, "/echo", json!({"people": 2})).await;
/// assert_eq!(answer.json(), json!({"people": 2}));
/// assert_eq!(send(routes, Method::DELETE, "/echo", None).await.status, 405);
/// # }
/// ```
///
/// # Panics
/// If `path` is not a valid path, and in the cases of [`ask`].
pub async fn send(
    routes: impl Into<Router>,
    method: Method,
    path: &str,
    body: impl Into<Option<Value>>,
) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = match body.into() {
        None => request.body(Body::empty()),
        Some(body) => {
            let request = request.header(header::CONTENT_TYPE, "application/json");
            request.body(Body::from(body.to_string()))
        }
    };
    ask(routes, request.expect("a path")).await
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
