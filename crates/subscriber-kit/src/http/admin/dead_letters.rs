//! Parked keys and dead letters: list, replay, discard.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
};
use nudge_protocol::{
    EntityId, EntityName,
    admin::{DeadLetter, DeadLetterPage, NextDeadLetter, Queued},
};
use nudge_runtime::{
    Problem,
    body::Query,
    paging::{PageSize, cut},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Api, Key};
use crate::subscriber::Shared;

/// Longest wait for the work queue to accept a replay.
const MAX_REPLAY_WAIT: Duration = Duration::from_secs(2);
const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLetterQuery {
    /// Start with this entity.
    #[param(value_type = Option<EntityName>, nullable = false)]
    entity: Option<EntityName>,
    /// Start after this ID.
    #[param(nullable = false)]
    after: Option<String>,
    /// Maximum number of rows.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
}

/// List parked keys and dead letters
///
/// Ordered by entity, in the order in which the service follows them, then by ID.
#[utoipa::path(get, path = "/dead-letters", operation_id = "deadLetters", tag = "subscriber",
params(DeadLetterQuery), responses(
    (status = 200, description = "A page", body = DeadLetterPage),
    (status = 400, description = "A parameter is invalid"),
))]
pub(super) async fn list(
    State(shared): Api,
    Query(query): Query<DeadLetterQuery>,
) -> Result<axum::Json<DeadLetterPage>, Problem> {
    let limit = PAGE.rows(query.limit);
    let limit = limit.map_err(|error| Problem::parameter("limit", error.to_string()))?;
    let first = match &query.entity {
        None => 0,
        Some(entity) => {
            let position = shared.followed.iter().position(|f| f.entity == *entity);
            let unknown = || format!("{} does not follow this entity", shared.service);
            position.ok_or_else(|| Problem::parameter("entity", unknown()))?
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
    let next = cut(&mut items, limit, |last| NextDeadLetter {
        entity: last.entity.clone(),
        after: last.id.clone(),
    });
    Ok(axum::Json(DeadLetterPage { items, next }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct KeyQuery {
    /// The kind of entity.
    entity: EntityName,
    /// The entity's ID.
    id: EntityId,
}

impl KeyQuery {
    fn key(self, shared: &Shared) -> Result<Key, Problem> {
        Ok(Key { place: shared.place_of(self.entity.as_str())?, id: self.id })
    }
}

/// Replay a dead letter, with its ID in the query
///
/// For IDs such as `..`, which a path cannot contain.
#[utoipa::path(post, path = "/dead-letters/replay", operation_id = "replayDeadLetterByQuery",
tag = "subscriber", params(KeyQuery), responses(
    (status = 202, description = "Queued", body = Queued),
    (status = 400, description = "A parameter is invalid"),
    (status = 404, description = "No such dead letter"),
    (status = 503, description = "The work queue is not accepting keys; `Retry-After` says when to try again"),
))]
pub(super) async fn replay_by_query(
    State(shared): Api,
    Query(query): Query<KeyQuery>,
) -> Result<(StatusCode, axum::Json<Queued>), Problem> {
    let key = query.key(&shared)?;
    replay(State(shared), key).await
}

/// Discard a dead letter, with its ID in the query
///
/// For IDs such as `..`, which a path cannot contain.
#[utoipa::path(post, path = "/dead-letters/discard", operation_id = "discardDeadLetterByQuery",
tag = "subscriber", params(KeyQuery), responses(
    (status = 204, description = "Discarded"),
    (status = 400, description = "A parameter is invalid"),
    (status = 404, description = "No such dead letter"),
))]
pub(super) async fn discard_by_query(
    State(shared): Api,
    Query(query): Query<KeyQuery>,
) -> Result<StatusCode, Problem> {
    let key = query.key(&shared)?;
    discard(State(shared), key).await
}

/// Replay a dead letter
///
/// Puts the key on the work queue, like any other work. The dead letter closes when the entity is applied.
#[utoipa::path(post, path = "/dead-letters/{entity}/{id}/replay", operation_id = "replayDeadLetter",
tag = "subscriber", params(
    ("entity" = nudge_protocol::EntityName, Path, description = "The kind of entity"),
    ("id" = nudge_protocol::EntityId, Path, description = "The entity's ID, percent-encoded"),
), responses(
    (status = 202, description = "Queued", body = Queued),
    (status = 404, description = "No such dead letter"),
    (status = 503, description = "The work queue is not accepting keys; `Retry-After` says when to try again"),
))]
pub(super) async fn replay(
    State(shared): Api,
    Key { place, id }: Key,
) -> Result<(StatusCode, axum::Json<Queued>), Problem> {
    let followed = &shared.followed[place];
    let row = followed.dead_letters.get(&id).await?.ok_or_else(no_dead_letter)?;
    let enqueued = followed.enqueue(id, row.floor, 0);
    match tokio::time::timeout(MAX_REPLAY_WAIT, enqueued).await {
        Ok(true) => {}
        Ok(false) => return Err(shared.stopping()),
        Err(_) => {
            let detail =
                "the work queue accepts no keys while the owner is down or the queue is full";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")));
        }
    }
    Ok((StatusCode::ACCEPTED, axum::Json(Queued { queued: true })))
}

/// Discard a dead letter
#[utoipa::path(delete, path = "/dead-letters/{entity}/{id}", operation_id = "discardDeadLetter",
tag = "subscriber", params(
    ("entity" = nudge_protocol::EntityName, Path, description = "The kind of entity"),
    ("id" = nudge_protocol::EntityId, Path, description = "The entity's ID, percent-encoded"),
), responses(
    (status = 204, description = "Discarded"),
    (status = 404, description = "No such dead letter"),
))]
pub(super) async fn discard(
    State(shared): Api,
    Key { place, id }: Key,
) -> Result<StatusCode, Problem> {
    match shared.followed[place].dead_letters.discard(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_dead_letter()),
    }
}

fn no_dead_letter() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no dead letter for this ID")
}
