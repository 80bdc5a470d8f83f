//! The endpoints. Each is in the OpenAPI document, and honours `Nudge-Token`: it waits until that write is applied here.

use nudge_subscriber_kit::{
    axum::{self, Json, extract::State, http::StatusCode},
    protocol::EntityId,
    runtime::{Database, Problem, path::PathId},
    sqlx,
    utoipa,
    utoipa_axum::{router::OpenApiRouter, routes},
};

use crate::read_model::Item;

/// All of them. Add yours here.
pub fn routes() -> OpenApiRouter<Database> {
    OpenApiRouter::default().routes(routes!(get))
}

/// Read what this service keeps of one entity
#[utoipa::path(
    get, path = "/my-entity/{id}",
    params(("id" = EntityId, Path, description = "Its ID")),
    responses(
        (status = 200, description = "As far as it is known here", body = Item),
        (status = 404, description = "None with this ID is known"),
    ),
)]
pub async fn get(
    State(db): State<Database>,
    PathId(id): PathId<EntityId>,
) -> Result<Json<Item>, Problem> {
    let sql = "SELECT name FROM known_my_entity WHERE id = $1";
    let read = || sqlx::query_as(sql).bind(id.as_str()).fetch_optional(db.reader());
    let row: Option<(Option<String>,)> = db.run_afresh(read).await?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "none with this ID is known");
    let (name,) = row.ok_or_else(unknown)?;
    Ok(Json(Item { name }))
}
