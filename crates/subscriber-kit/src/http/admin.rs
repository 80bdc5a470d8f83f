//! The routes that every subscriber has: health, metrics, and `/nudge/v1`.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::{delete, get, post},
};
use futures_util::{Stream, StreamExt, stream};
use nudge_protocol::{EntityId, EntityName, Timestamp, Version, WriteToken};
use nudge_runtime::{Problem, body::Query};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    callback::breaker::Standing,
    read_model::dead_letter::DeadLetter,
    subscriber::{Followed, Shared, Subscriber},
    telemetry::events::Event,
};

/// Wait for a version when none is asked for, in milliseconds.
const DEFAULT_WAIT_MS: u64 = 5_000;
/// Longest wait for a version, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;
/// Longest wait for the work queue to take a replay.
const MAX_REPLAY_WAIT: Duration = Duration::from_secs(2);
/// Most dead letters in one page, and how many when no limit is given.
const MAX_DEAD_LETTERS: usize = 1_000;
const DEFAULT_DEAD_LETTERS: usize = 100;

type Api = State<Arc<Shared>>;

impl Subscriber {
    /// `/livez`, `/readyz`, `/metrics`, and `/nudge/v1/*` of the contract: `status`,
    /// `applied/{entity}/{id}`, `wait`, `events`, `dead-letters`, `pause`, `resume`.
    pub fn router(&self) -> Router {
        let nudge = Router::new()
            .route("/status", get(status))
            .route("/applied/{entity}/{id}", get(applied))
            .route("/wait", get(wait))
            .route("/events", get(events))
            .route("/dead-letters", get(dead_letters))
            .route("/dead-letters/{entity}/{id}", delete(discard))
            .route("/dead-letters/{entity}/{id}/replay", post(replay))
            .route("/pause", post(pause))
            .route("/resume", post(resume));
        Router::new()
            // Liveness looks at nothing: a restart mends neither the database nor the broker.
            .route("/livez", get(async || axum::Json(json!({"live": true}))))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .nest("/nudge/v1", nudge)
            .with_state(self.shared.clone())
    }
}

impl Shared {
    pub(crate) fn followed(&self, entity: &str) -> Option<&Followed> {
        self.followed.iter().find(|followed| followed.entity.as_str() == entity)
    }

    /// The followed entity and the id that a path names.
    fn key(&self, (entity, id): &(String, String)) -> Result<(&Followed, EntityId), Problem> {
        let not_followed = || {
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("{} does not follow {entity:?}", self.service),
            )
        };
        let followed = self.followed(entity).ok_or_else(not_followed)?;
        let id = EntityId::new(id).map_err(|error| {
            Problem::field("id", error.to_string()).with_status(StatusCode::BAD_REQUEST)
        })?;
        Ok((followed, id))
    }

    /// Whether notifications can arrive at this moment. The connection knows first; a lost session
    /// on it shows later.
    fn is_connected(&self, followed: &Followed) -> bool {
        if !self.source.is_connected() {
            followed.progress.connected.set(0);
        }
        followed.progress.connected.get() == 1
    }

    fn stopping(&self) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{} is stopping", self.service))
    }
}

async fn readyz(State(shared): Api) -> Response {
    let subscriber = Subscriber { shared };
    let shared = &subscriber.shared;
    // One read tells whether the database answers.
    let database = sqlx::query("SELECT 1").execute(shared.db.reader());
    let database = shared.db.run(database).await.is_ok();
    let waiting: Vec<&EntityName> = shared
        .followed
        .iter()
        .filter(|followed| !followed.progress.caught_up.load(Relaxed))
        .map(|followed| &followed.entity)
        .collect();
    let ready = database && subscriber.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "database": database, "catching_up": waiting});
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(shared): Api) -> Result<Response, Problem> {
    for followed in &shared.followed {
        let open = followed.owner.breaker().standing() != Standing::Closed;
        followed.progress.breaker_open.set(i64::from(open));
        shared.is_connected(followed);
    }
    let mut text = String::new();
    let registry = shared.registry.lock();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|error| Problem::internal(&error))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// `GET status`.
#[derive(Serialize)]
struct Status<'a> {
    service: &'a str,
    ready: bool,
    paused: bool,
    entities: Vec<EntityStatus<'a>>,
}

/// How one followed entity is doing.
#[derive(Serialize)]
struct EntityStatus<'a> {
    entity: &'a EntityName,
    /// Entities whose state or tombstone is applied.
    applied: u64,
    /// Owner's commit to row applied, of the last one.
    lag_seconds: f64,
    queued: i64,
    processing: i64,
    retrying: i64,
    parked: u64,
    dead_letters: u64,
    breaker: Standing,
    paused: bool,
    /// When something was last applied or found up to date.
    last_progress: Option<Timestamp>,
    /// Whether notifications can arrive at this moment.
    connected: bool,
    caught_up: bool,
    /// Messages that the broker has not delivered yet.
    stream_pending: i64,
    /// Stream sequence up to which everything is handled.
    position: u64,
    malformed: u64,
    callbacks: u64,
    last_error: Option<String>,
}

async fn status(State(shared): Api) -> Result<Response, Problem> {
    let paused = *shared.paused.borrow();
    let mut entities = Vec::with_capacity(shared.followed.len());
    for followed in &shared.followed {
        let progress = &followed.progress;
        let counts = followed.dead_letters.counts().await?;
        let last_progress = progress.last_progress.load(Relaxed);
        entities.push(EntityStatus {
            entity: &followed.entity,
            applied: followed.waiters.count().await?,
            lag_seconds: progress.last_lag_micros.load(Relaxed) as f64 / 1e6,
            queued: progress.queued.get(),
            processing: progress.processing.get(),
            retrying: progress.retrying.get(),
            parked: counts.parked,
            dead_letters: counts.dead_letters,
            breaker: followed.owner.breaker().standing(),
            paused,
            last_progress: (last_progress > 0).then(|| Timestamp::from_unix_micros(last_progress)),
            connected: shared.is_connected(followed),
            caught_up: progress.caught_up.load(Relaxed),
            stream_pending: progress.stream_pending.get(),
            position: progress.position.load(Relaxed),
            malformed: progress.malformed.get(),
            callbacks: progress.callbacks.get(),
            last_error: progress.last_error(),
        });
    }
    let ready = Subscriber { shared: shared.clone() }.is_ready();
    Ok(axum::Json(Status { service: &shared.service, ready, paused, entities }).into_response())
}

async fn applied(
    State(shared): Api,
    Path(path): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (followed, id) = shared.key(&path)?;
    match followed.waiters.applied(&id).await? {
        Some(applied) => Ok(axum::Json(applied).into_response()),
        None => Err(Problem::new(StatusCode::NOT_FOUND, "nothing is applied for this id")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    token: String,
    timeout_ms: Option<u64>,
}

async fn wait(State(shared): Api, Query(query): Query<WaitQuery>) -> Result<Response, Problem> {
    let bad =
        |field, detail: String| Problem::field(field, detail).with_status(StatusCode::BAD_REQUEST);
    let token: WriteToken = query.token.parse().map_err(|e| bad("token", format!("{e}")))?;
    let timeout_ms = query.timeout_ms.unwrap_or(DEFAULT_WAIT_MS);
    if timeout_ms > MAX_WAIT_MS {
        return Err(bad("timeout_ms", format!("must be at most {MAX_WAIT_MS}")));
    }
    let path = (token.entity.to_string(), token.id.to_string());
    let (followed, id) = shared.key(&path)?;
    let timeout = Duration::from_millis(timeout_ms);
    let waited = tokio::select! {
        waited = followed.waiters.wait(&id, token.version, timeout) => waited?,
        () = shared.stop.cancelled() => return Err(shared.stopping()),
    };
    match waited {
        Ok(applied) => Ok(axum::Json(applied).into_response()),
        Err(current) => Err(not_yet(&token, current.map(|applied| applied.version))),
    }
}

/// 504 with the version that is applied now.
pub(crate) fn not_yet(token: &WriteToken, current: Option<Version>) -> Problem {
    let detail = format!("{token} is not applied yet");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).with("version", json!(current))
}

async fn events(State(shared): Api) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let receiver = shared.events.subscribe();
    let events = stream::unfold(receiver, |mut receiver| async {
        let data = match receiver.recv().await {
            Ok(event) => to_json::<Event>(&event),
            // The watcher read too slowly. It is told how much it missed.
            Err(RecvError::Lagged(missed)) => {
                json!({"kind": "missed", "count": missed}).to_string()
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(sse::Event::default().data(data)), receiver))
    });
    // Without this an open watcher would hold up a graceful stop.
    let until_stop = events.take_until(shared.stop.clone().cancelled_owned());
    Sse::new(until_stop).keep_alive(KeepAlive::default())
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("events hold strings and numbers")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLetterQuery {
    entity: Option<EntityName>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct DeadLetterPage {
    items: Vec<DeadLetter>,
    /// Pass as `entity` and `after` for the next page.
    next: Option<NextDeadLetter>,
}

#[derive(Serialize)]
struct NextDeadLetter {
    entity: EntityName,
    after: String,
}

/// Pages go entity by entity, in the order in which those are followed. `entity` says where to
/// begin, `after` after which id.
async fn dead_letters(
    State(shared): Api,
    Query(query): Query<DeadLetterQuery>,
) -> Result<axum::Json<DeadLetterPage>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_DEAD_LETTERS);
    if !(1..=MAX_DEAD_LETTERS).contains(&limit) {
        let detail = format!("must be from 1 to {MAX_DEAD_LETTERS}");
        return Err(Problem::field("limit", detail).with_status(StatusCode::BAD_REQUEST));
    }
    let first = match &query.entity {
        None => 0,
        Some(entity) => {
            let position = shared.followed.iter().position(|f| f.entity == *entity);
            position.ok_or_else(|| {
                Problem::field("entity", format!("{} does not follow it", shared.service))
                    .with_status(StatusCode::BAD_REQUEST)
            })?
        }
    };
    let mut items: Vec<DeadLetter> = Vec::new();
    let mut after = query.after.unwrap_or_default();
    for followed in &shared.followed[first..] {
        items.extend(followed.dead_letters.list(&after, limit + 1 - items.len()).await?);
        if items.len() > limit {
            break;
        }
        after.clear();
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more);
    let next = next.map(|l| NextDeadLetter { entity: l.entity.clone(), after: l.id.to_string() });
    Ok(axum::Json(DeadLetterPage { items, next }))
}

/// Puts the id on the work queue: the same way as any other work. The row closes by itself when
/// the entity is applied.
async fn replay(
    State(shared): Api,
    Path(path): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (followed, id) = shared.key(&path)?;
    let row = followed.dead_letters.get(&id).await?.ok_or_else(no_dead_letter)?;
    let enqueued = followed.enqueue(id, row.floor, 0);
    match tokio::time::timeout(MAX_REPLAY_WAIT, enqueued).await {
        Ok(true) => {}
        Ok(false) => return Err(shared.stopping()),
        Err(_) => {
            let detail = "nothing is taken on while the owner is down or the queue is full";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")));
        }
    }
    Ok((StatusCode::ACCEPTED, axum::Json(json!({"queued": true}))).into_response())
}

async fn discard(
    State(shared): Api,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (followed, id) = shared.key(&path)?;
    match followed.dead_letters.discard(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_dead_letter()),
    }
}

fn no_dead_letter() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no dead letter for this id")
}

async fn pause(State(shared): Api) -> axum::Json<serde_json::Value> {
    shared.paused.send_replace(true);
    axum::Json(json!({"paused": true}))
}

async fn resume(State(shared): Api) -> axum::Json<serde_json::Value> {
    shared.paused.send_replace(false);
    axum::Json(json!({"paused": false}))
}
