//! The console: readiness of all parts, and the page that shows them at work.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{FromRef, Path, State},
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::{any, get},
};
use futures_util::{Stream, StreamExt, future, stream};
use nudge_runtime::{Broker, Problem, problem};
use nudge_testbed::nats;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::proxy;
use crate::{
    client::Api,
    failure::Failure,
    peers::{self, HOLDERS_PATH, Holder, Named, Peer, SERVICES_PATH},
    roles,
    sse::{Signal, follow},
};

/// Timeout of one check of a service.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Most pages that can watch at a time.
const MAX_WATCHERS: usize = 32;
/// Most events buffered for a slow page; beyond that, the services' streams wait.
const MAX_WAITING_EVENTS: usize = 1_024;
/// The page loads everything from here, and talks to nobody else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Console {
    api: Api,
    /// Opens a connection for each check: a service that accepts nobody new may still answer on its
    /// existing connections.
    newcomer: Api,
    broker: Broker,
    restarts: Arc<HashMap<String, Arc<AtomicU64>>>,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The state of one part of the demo.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PartState {
    pub(super) name: &'static str,
    pub(super) ready: bool,
    /// Whether it belongs to the demo; others are only shown.
    pub(super) of_the_demo: bool,
    restarts: u64,
}

impl PartState {
    /// Whether the demo is not ready because of it.
    pub(super) fn is_missing(&self) -> bool {
        self.of_the_demo && !self.ready
    }
}

impl Console {
    pub(super) fn new(
        api: Api,
        broker: Broker,
        restarts: HashMap<String, Arc<AtomicU64>>,
        stop: CancellationToken,
    ) -> Self {
        let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
        let newcomer = api.clone().without_idle_connections();
        Self { api, newcomer, broker, restarts: Arc::new(restarts), watchers, stop }
    }

    /// Checks every part now.
    pub(super) async fn look(&self) -> Vec<PartState> {
        let services = self.newcomer.peers().iter().map(|&peer| async move {
            let request = self.newcomer.long_request(Method::GET, peer, "/readyz");
            let answer = self.newcomer.expect(peer, request.timeout(LOOK_TIMEOUT)).await;
            (peer.name(), answer.is_ok(), peer.demo().is_some())
        });
        let nats = async { ("NATS", nats::is_ready(&self.broker).await, true) };
        let (nats, services) = future::join(nats, future::join_all(services)).await;
        let restarts = |name| self.restarts.get(name).map_or(0, |restarts| restarts.load(Relaxed));
        let state = |(name, ready, of_the_demo)| PartState {
            name,
            ready,
            of_the_demo,
            restarts: restarts(name),
        };
        [nats].into_iter().chain(services).map(state).collect()
    }
}

/// Requests that are passed on to the services need nothing else.
impl FromRef<Console> for Api {
    fn from_ref(console: &Console) -> Self {
        console.api.clone()
    }
}

/// All routes of the console.
pub(super) fn router(console: Console) -> Router {
    Router::new()
        .route("/", get(async || asset("text/html", include_str!("page/index.html"))))
        .route("/{file}", get(page_file))
        .route("/livez", get(async || Json(json!({"live": true}))))
        .route("/readyz", get(readyz))
        .route("/api/status", get(status))
        .route(SERVICES_PATH, get(services))
        .route(HOLDERS_PATH, get(holders))
        .route("/api/events", get(events))
        .route("/api/{service}/{*path}", any(proxy::forward))
        .with_state(console)
}

/// The other files of the page.
const PAGE_FILES: [(&str, &str, &str); 6] = [
    ("style.css", "text/css", include_str!("page/style.css")),
    ("app.js", "text/javascript", include_str!("page/app.js")),
    ("common.js", "text/javascript", include_str!("page/common.js")),
    ("services.js", "text/javascript", include_str!("page/services.js")),
    ("changes.js", "text/javascript", include_str!("page/changes.js")),
    ("edit.js", "text/javascript", include_str!("page/edit.js")),
];

async fn page_file(Path(wanted): Path<String>) -> Response {
    match PAGE_FILES.iter().find(|(name, ..)| *name == wanted) {
        Some((_, kind, text)) => asset(kind, text),
        None => problem::not_found().await.into_response(),
    }
}

fn asset(kind: &str, text: &'static str) -> Response {
    let kind = format!("{kind}; charset=utf-8");
    let headers = [
        (header::CONTENT_TYPE, kind.as_str()),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The page belongs to this build; the next one may be started any moment.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
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
        true => "the demo is stopping".to_owned(),
        false => format!("not ready: {}", waiting.join(", ")),
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .with("ready", false)
        .with("not_ready", json!(waiting))
        .with("parts", json!(parts))
        .into_response()
}

/// Every part, what each owner has not published, and each subscriber's status; `null` of one that is away.
async fn status(State(console): State<Console>) -> Json<Value> {
    let api = &console.api;
    let roles = api.peers().iter().map(|&peer| async move {
        let asked = future::join(roles::owned(api, peer), roles::followed(api, peer));
        (peer, tokio::time::timeout(LOOK_TIMEOUT, asked).await.ok())
    });
    let (parts, roles) = future::join(console.look(), future::join_all(roles)).await;
    let (mut owners, mut subscribers) = (serde_json::Map::new(), serde_json::Map::new());
    for (peer, asked) in roles {
        let name = peer.name();
        let (owned, status) = match asked {
            Some((owned, status)) => (owned.ok(), status.ok()),
            None => (None, None),
        };
        match owned {
            Some(owned) if owned.is_empty() => {}
            Some(owned) => drop(owners.insert(name.to_owned(), json!(owned))),
            None if roles::owns_something(peer) => {
                owners.insert(name.to_owned(), Value::Null);
            }
            None => {}
        }
        match status {
            Some(None) => {}
            Some(Some(status)) => drop(subscribers.insert(name.to_owned(), json!(status))),
            None if roles::follows_nothing(peer) => {}
            None => drop(subscribers.insert(name.to_owned(), Value::Null)),
        }
    }
    Json(json!({"parts": parts, "owners": owners, "subscribers": subscribers}))
}

/// The services that this console knows, for the command line.
async fn services(State(console): State<Console>) -> Json<Vec<Named>> {
    let of = |peer: &Peer| Named { name: peer.name().to_owned(), url: peer.url().to_owned() };
    Json(console.api.peers().iter().map(of).collect())
}

/// Subscribers according to the broker, those among the services included.
async fn holders(State(console): State<Console>) -> Result<Json<Vec<Holder>>, Problem> {
    let away = |failure: Failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string());
    peers::holders(&console.broker).await.map(Json).map_err(away)
}

/// What all subscribers tell, in one stream.
async fn events(
    State(console): State<Console>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let Ok(permit) = console.watchers.clone().try_acquire_owned() else {
        let detail = format!("at most {MAX_WATCHERS} pages can watch at a time");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let (sender, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
    let subscribers = roles::followers(&console.api, "all", None).await;
    for peer in subscribers.unwrap_or_default() {
        tokio::spawn(follow(console.api.clone(), peer, sender.clone()));
    }
    drop(sender);
    let events = stream::unfold((receiver, permit), |(mut receiver, permit)| async {
        let event = match receiver.recv().await? {
            Signal::Up(peer) => named("link", &json!({"subscriber": peer.name(), "up": true})),
            Signal::Down(peer, _) => {
                named("link", &json!({"subscriber": peer.name(), "up": false}))
            }
            Signal::Event(peer, event) => {
                // What is no JSON comes from something else than a subscriber.
                let told: Value = serde_json::from_str(&event.data).unwrap_or_default();
                named("told", &json!({"subscriber": peer.name(), "event": told}))
            }
        };
        Some((Ok(event), (receiver, permit)))
    });
    let until_stop = events.take_until(console.stop.clone().cancelled_owned());
    Ok(Sse::new(until_stop).keep_alive(KeepAlive::default()))
}

fn named(event: &str, data: &Value) -> sse::Event {
    sse::Event::default().event(event).data(data.to_string())
}

#[cfg(test)]
mod tests;
