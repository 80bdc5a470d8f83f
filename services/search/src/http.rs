//! The HTTP edge: parameters in, JSON out.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use nudge_protocol::EntityId;
use nudge_runtime::{Database, Problem, body::Query};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    openapi::{self, ProblemDocument},
    query::{Parameters, StoreQuery},
    read_model::{self, Item},
};

/// The service's own endpoints, over the read model in `db`.
pub fn router(db: Database) -> Router {
    let document = || async { ([(header::CONTENT_TYPE, "application/json")], openapi::document()) };
    Router::new()
        .route("/stores", get(search_stores))
        .with_state(db)
        .route("/openapi.json", get(document))
}

/// One page of search results.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchResults {
    /// The ids of the stores found, best first.
    #[schema(value_type = Vec<String>)]
    ids: Vec<EntityId>,
    /// The same stores, as this service knows them.
    items: Vec<Item>,
    /// What to send as `cursor` for the next page; null on the last.
    next: Option<String>,
}

/// Finds stores.
///
/// The text is looked for in names (part of a word is enough, spaces do not matter), regions,
/// neighbourhoods, categories, addresses and menus. Several words must all be found. Stores whose
/// name is like the text come first, then it goes by name. Deleted stores are never found.
#[utoipa::path(
    get,
    path = "/stores",
    tag = "stores",
    operation_id = "searchStores",
    params(
        Parameters,
        ("Nudge-Token" = Option<String>, Header, description = "Wait, at most 2 s, until this write is visible here; what store-info answered to it"),
    ),
    responses(
        (status = 200, description = "One page of results", body = SearchResults),
        (status = 400, description = "A parameter is wrong; `errors` names it", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database is not available just now", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 504, description = "The write that `Nudge-Token` names did not arrive in time", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn search_stores(
    State(db): State<Database>,
    Query(parameters): Query<Parameters>,
) -> Result<impl IntoResponse, Problem> {
    let query = StoreQuery::parse(parameters)
        .map_err(|wrong| Problem::fields(wrong).with_status(StatusCode::BAD_REQUEST))?;
    let page = read_model::find(&db, &query).await?;
    let ids = page.items.iter().map(|item| item.id.clone()).collect();
    let next = page.next.map(|cursor| cursor.to_string());
    Ok(Json(SearchResults { ids, items: page.items, next }))
}
