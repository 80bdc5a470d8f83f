//! The HTTP endpoint: parameters in, JSON out.

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use nudge_protocol::EntityId;
use nudge_runtime::{Database, Problem, body::Query};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    query::{Parameters, StoreQuery},
    read_model::{self, Item},
};

/// The service's own routes. Their state is the database of the read model.
pub fn routes() -> OpenApiRouter<Database> {
    OpenApiRouter::default().routes(routes!(search_stores))
}

/// A page of search results.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchResults {
    /// The IDs of the stores found, best match first.
    ids: Vec<EntityId>,
    /// The same stores, as this service knows them.
    items: Vec<Item>,
    /// Pass as `cursor` for the next page; null on the last page.
    next: Option<String>,
}

/// Find stores
///
/// Searches names (part of a word is enough, spaces do not matter), regions, neighbourhoods, categories,
/// addresses and menus. All words of the text must be found. Stores whose name resembles the text come
/// first; within that, results are sorted by name. Deleted stores are never found.
#[utoipa::path(
    get,
    path = "/stores",
    tag = "stores",
    operation_id = "searchStores",
    params(Parameters),
    responses((status = 200, description = "A page of results", body = SearchResults)),
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
