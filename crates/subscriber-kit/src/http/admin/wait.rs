//! Which version is applied, now or after a wait.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use nudge_protocol::{Version, WriteToken, admin::AppliedVersion};
use nudge_runtime::{Problem, body::Query};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::{Api, Key};

/// How long to wait for a version unless the request says otherwise, in milliseconds.
const DEFAULT_WAIT_MS: u64 = 5_000;
/// Longest wait for a version, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

/// Show the applied version of an entity
#[utoipa::path(get, path = "/applied/{entity}/{id}", operation_id = "applied", tag = "subscriber", params(
    ("entity" = nudge_protocol::EntityName, Path, description = "The kind of entity"),
    ("id" = nudge_protocol::EntityId, Path, description = "The entity's ID, percent-encoded"),
), responses(
    (status = 200, description = "Applied", body = AppliedVersion),
    (status = 404, description = "Nothing is applied, or the entity is not followed"),
))]
pub(super) async fn applied(
    State(shared): Api,
    Key { place, id }: Key,
) -> Result<axum::Json<AppliedVersion>, Problem> {
    let applied = shared.followed[place].waiters.applied(&id).await?;
    let nothing = || Problem::new(StatusCode::NOT_FOUND, "nothing is applied for this ID");
    applied.map(axum::Json).ok_or_else(nothing)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// The `Nudge-Token` of the write to wait for.
    #[param(
        pattern = "^[a-z][a-z0-9_-]{0,39}/([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+@[0-9]{1,16}$",
        example = "store/42@17"
    )]
    token: String,
    /// Longest wait, in milliseconds.
    #[param(minimum = 0, maximum = 60000, default = 5000, nullable = false)]
    timeout_ms: Option<u64>,
}

/// Wait until a version is applied
#[utoipa::path(get, path = "/wait", operation_id = "wait", tag = "subscriber", params(WaitQuery), responses(
    (status = 200, description = "Applied", body = AppliedVersion),
    (status = 400, description = "The token or the timeout is invalid"),
    (status = 404, description = "The entity is not followed"),
    (status = 503, description = "The service is stopping, or its database is busy or unavailable"),
    (status = 504, description = "Not applied in time; `version` is the version applied now"),
))]
pub(super) async fn wait(
    State(shared): Api,
    Query(query): Query<WaitQuery>,
) -> Result<axum::Json<AppliedVersion>, Problem> {
    let token: WriteToken =
        query.token.parse().map_err(|error| Problem::parameter("token", format!("{error}")))?;
    let timeout_ms = query.timeout_ms.unwrap_or(DEFAULT_WAIT_MS);
    if timeout_ms > MAX_WAIT_MS {
        let detail = format!("must be at most {MAX_WAIT_MS}");
        return Err(Problem::parameter("timeout_ms", detail));
    }
    let followed = &shared.followed[shared.place_of(token.entity.as_str())?];
    let timeout = Duration::from_millis(timeout_ms);
    let waited = tokio::select! {
        waited = followed.waiters.wait(&token.id, token.version, timeout) => waited?,
        () = shared.stop.cancelled() => return Err(shared.stopping()),
    };
    let current = |applied: Option<AppliedVersion>| applied.map(|applied| applied.version);
    waited.map(axum::Json).map_err(|applied| not_yet(&token, current(applied)))
}

/// 504 with the version applied now.
pub(crate) fn not_yet(token: &WriteToken, current: Option<Version>) -> Problem {
    let detail = format!("{token} is not applied yet");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).with("version", json!(current))
}
