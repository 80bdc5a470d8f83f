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
mod login;
mod page;
mod proxy;
mod rates;
mod view;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use nudge_protocol::{EntityId, EntityName, Timestamp};
use nudge_runtime::{Broker, Problem, clock, path::PathId};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::login::Login;
use self::{feed::Feed, view::View};
use crate::{
    chaos::drawer::{self, Drawer},
    client::Api,
    failure::Failure,
    peers::{self, HOLDERS_PATH, Holder, Named, Peer, SERVICES_PATH},
    why::{self, Story},
};

/// Longest pause between two looks at the clock, for when a token expires.
const MAX_PAUSE: Duration = Duration::from_secs(5);

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
    login: Login,
    /// When this program ends, or whoever looks has logged out.
    stop: CancellationToken,
    /// When the token of whoever looks expires.
    ends: Option<Timestamp>,
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
        let (feed, login) = (Feed::new(), Login::default());
        Self { api, newcomer, broker, restarts, feed, watchers, drawer, login, stop, ends: None }
    }

    /// The same for whom `login` admits.
    pub(crate) fn answering(self, login: Login) -> Self {
        Self { login, ..self }
    }

    /// Waits until whoever looks may not any more.
    async fn ended(self) {
        loop {
            let left = self.ends.map_or(f64::INFINITY, |ends| ends.seconds_since(clock::now()));
            if left <= 0.0 {
                return;
            }
            // The clock on the wall decides, and it may be set.
            let pause = Duration::from_secs_f64(left.min(MAX_PAUSE.as_secs_f64()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// All routes of the console.
pub(crate) fn router(console: Console) -> Router {
    let chaos = console.drawer.clone().map(drawer::http::router).unwrap_or_default();
    let api = Router::new()
        .route("/api/status", get(status))
        .route(SERVICES_PATH, get(services))
        .route(HOLDERS_PATH, get(holders))
        .route("/api/stream", get(collect::stream))
        .route("/api/why/{entity}/{id}", get(story))
        .route("/api/{service}/{*path}", any(proxy::forward))
        .merge(chaos);
    Router::new()
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .route("/livez", get(async || Json(json!({"live": true}))))
        .route("/readyz", get(readyz))
        .with_state(console.clone())
        .merge(login::guard(api, console))
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
async fn status(Extension(console): Extension<Console>) -> Json<View> {
    Json(console.view().await)
}

/// The services that this console knows, for the command line.
async fn services(Extension(console): Extension<Console>) -> Json<Vec<Named>> {
    let of = |peer: &Peer| Named { name: peer.name().to_owned(), url: peer.url().to_owned() };
    Json(console.api.peers().iter().map(of).collect())
}

/// What `nudge why` tells.
async fn story(
    Extension(console): Extension<Console>,
    PathId(id): PathId<EntityId>,
    Path((entity, _)): Path<(String, String)>,
) -> Result<Json<Story>, Problem> {
    let entity = EntityName::new(&entity);
    let entity = entity.map_err(|error| Problem::parameter("entity", error.to_string()))?;
    let away = |failure: Failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string());
    why::tell(&console.api, "all", entity, id).await.map(Json).map_err(away)
}

/// Subscribers according to the broker, those among the services included.
async fn holders(Extension(console): Extension<Console>) -> Result<Json<Vec<Holder>>, Problem> {
    let Some(broker) = &console.broker else {
        let detail = "this console was not told where NATS is: --nats-url";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let away = |failure: Failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string());
    peers::holders(broker).await.map(Json).map_err(away)
}

#[cfg(test)]
mod tests;
