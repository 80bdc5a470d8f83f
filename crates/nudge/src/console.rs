//! The console: readiness of all parts, and the page that shows them at work. `nudge dev` serves it for the demo,
//! `nudge console` for any services.
//!
//! ```text
//! events, status, metrics of each service ► collect ► board ► feed ► a page, ten frames a second at most
//!                                                                     │
//! the services ◄─────────────────────────── proxy ◄───────────────────┘ what a person does
//! ```

mod board;
mod collect;
mod feed;
mod page;
mod proxy;
mod rates;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use axum::{
    Json, Router,
    extract::{FromRef, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::{Broker, Problem, path::PathId};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{feed::Feed, view::View};
use crate::{
    chaos::drawer::{self, Drawer},
    client::Api,
    failure::Failure,
    peers::{self, HOLDERS_PATH, Holder, Named, Peer, SERVICES_PATH},
    why::{self, Story},
};

/// What the handlers share. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    api: Api,
    /// Opens a connection for each check: a service that accepts nobody new may still answer on its
    /// existing connections.
    newcomer: Api,
    broker: Option<Broker>,
    restarts: Arc<HashMap<String, Arc<AtomicU64>>>,
    feed: Feed,
    watchers: Arc<Semaphore>,
    /// Only where something can be broken by hand.
    drawer: Option<Drawer>,
    stop: CancellationToken,
}

impl Console {
    /// For these services, and the broker if it is known. `restarts` counts how often each part was started again.
    pub(crate) fn new(
        api: Api,
        broker: Option<Broker>,
        restarts: HashMap<String, Arc<AtomicU64>>,
        drawer: Option<Drawer>,
        stop: CancellationToken,
    ) -> Self {
        let newcomer = api.clone().without_idle_connections();
        let (restarts, watchers) = (Arc::new(restarts), Arc::new(collect::watchers()));
        Self { api, newcomer, broker, restarts, feed: Feed::new(), watchers, drawer, stop }
    }
}

/// Requests that are passed on to the services need nothing else.
impl FromRef<Console> for Api {
    fn from_ref(console: &Console) -> Self {
        console.api.clone()
    }
}

/// All routes of the console.
pub(crate) fn router(console: Console) -> Router {
    let chaos = console.drawer.clone().map(drawer::http::router).unwrap_or_default();
    Router::new()
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .route("/livez", get(async || Json(json!({"live": true}))))
        .route("/readyz", get(readyz))
        .route("/api/status", get(status))
        .route(SERVICES_PATH, get(services))
        .route(HOLDERS_PATH, get(holders))
        .route("/api/stream", get(collect::stream))
        .route("/api/why/{entity}/{id}", get(story))
        .route("/api/{service}/{*path}", any(proxy::forward))
        .with_state(console)
        .merge(chaos)
}

/// 200 if every part is ready, else 503 naming those that are not.
async fn readyz(State(console): State<Console>) -> Response {
    let parts = console.look().await;
    let waiting: Vec<_> =
        parts.iter().filter(|part| part.is_missing()).map(|part| part.name).collect();
    if waiting.is_empty() && !console.stop.is_cancelled() {
        return Json(json!({"ready": true, "parts": parts})).into_response();
    }
    let detail = match waiting.is_empty() {
        true => "the console is stopping".to_owned(),
        false => format!("not ready: {}", waiting.join(", ")),
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .with("ready", false)
        .with("not_ready", json!(waiting))
        .with("parts", json!(parts))
        .into_response()
}

/// Every part, and what each service owns and follows.
async fn status(State(console): State<Console>) -> Json<View> {
    Json(console.view().await)
}

/// The services that this console knows, for the command line.
async fn services(State(console): State<Console>) -> Json<Vec<Named>> {
    let of = |peer: &Peer| Named { name: peer.name().to_owned(), url: peer.url().to_owned() };
    Json(console.api.peers().iter().map(of).collect())
}

/// What `nudge why` tells.
async fn story(
    State(console): State<Console>,
    PathId(id): PathId<EntityId>,
    Path((entity, _)): Path<(String, String)>,
) -> Result<Json<Story>, Problem> {
    let entity = EntityName::new(&entity);
    let entity = entity.map_err(|error| Problem::parameter("entity", error.to_string()))?;
    let away = |failure: Failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string());
    why::tell(&console.api, "all", entity, id).await.map(Json).map_err(away)
}

/// Subscribers according to the broker, those among the services included.
async fn holders(State(console): State<Console>) -> Result<Json<Vec<Holder>>, Problem> {
    let Some(broker) = &console.broker else {
        let detail = "this console was not told where NATS is: --nats-url";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let away = |failure: Failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string());
    peers::holders(broker).await.map(Json).map_err(away)
}

#[cfg(test)]
mod tests;
