//! The endpoints for those who edit. They translate HTTP; `storage` does the work.

use nudge_publisher::conditional::write_headers;
use nudge_subscriber_kit::{
    axum::{
        self, Json as Answer,
        extract::State,
        http::StatusCode,
        response::{IntoResponse, Response},
    },
    protocol::{Change, EntityId},
    runtime::{Problem, body::Json, path::PathId},
    utoipa,
    utoipa_axum::{router::OpenApiRouter, routes},
};

use crate::{item::Item, storage::Items};

/// All of them. Add yours here.
pub fn routes() -> OpenApiRouter<Items> {
    OpenApiRouter::default().routes(routes!(get, put, delete))
}

/// Read one
#[utoipa::path(
    get, path = "/my-entity/{id}",
    params(("id" = EntityId, Path, description = "Its ID")),
    responses(
        (status = 200, description = "Its state", body = Item),
        (status = 404, description = "There is none with this ID"),
    ),
)]
pub async fn get(
    State(items): State<Items>,
    PathId(id): PathId<EntityId>,
) -> Result<Answer<Item>, Problem> {
    items.get(&id).await?.map(Answer).ok_or_else(unknown)
}

/// Create or replace one
#[utoipa::path(
    put, path = "/my-entity/{id}",
    params(("id" = EntityId, Path, description = "Its ID")),
    request_body = Item,
    responses(
        (status = 200, description = "Replaced", headers(("Nudge-Token" = String))),
        (status = 201, description = "Created", headers(("Nudge-Token" = String))),
    ),
)]
pub async fn put(
    State(items): State<Items>,
    PathId(id): PathId<EntityId>,
    Json(item): Json<Item>,
) -> Result<Response, Problem> {
    let faults = item.faults();
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    let (change, version) = items.put(&id, &item).await?;
    let status = match change {
        Change::Created => StatusCode::CREATED,
        Change::Updated | Change::Deleted => StatusCode::OK,
    };
    let headers = write_headers(&items.publisher.token(&id, version));
    Ok((status, headers).into_response())
}

/// Delete one
#[utoipa::path(
    delete, path = "/my-entity/{id}",
    params(("id" = EntityId, Path, description = "Its ID")),
    responses(
        (status = 204, description = "Deleted", headers(("Nudge-Token" = String))),
        (status = 404, description = "There is none with this ID"),
    ),
)]
pub async fn delete(
    State(items): State<Items>,
    PathId(id): PathId<EntityId>,
) -> Result<Response, Problem> {
    let version = items.delete(&id).await?.ok_or_else(unknown)?;
    let headers = write_headers(&items.publisher.token(&id, version));
    Ok((StatusCode::NO_CONTENT, headers).into_response())
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is none with this ID")
}
