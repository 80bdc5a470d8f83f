//! `/stores` and `/stores/{id}`.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{EntityId, subject};
use nudge_publisher::conditional::{
    IfMatch, IfNoneMatch, if_match, if_none_match, read_answer, write_headers,
};
use nudge_runtime::{
    Problem,
    body::Query,
    paging::{PageSize, cut},
    path::PathId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{App, read_json};
use crate::{
    domain::{Condition, Effect, GivenId, Store, decide},
    storage::Written,
};

/// Number of stores on a page.
const PAGE: PageSize = PageSize { default: 50, max: 500 };

const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];

/// Selects a page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Start after this ID: the `next` of the previous page.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    after: Option<String>,
    /// Maximum number of stores.
    #[param(minimum = 1, maximum = 500, default = 50, nullable = false)]
    limit: Option<usize>,
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct StorePage {
    /// The stores, in bytewise order of their IDs.
    pub items: Vec<Store>,
    /// Pass it as `after` for the next page; null on the last page.
    #[schema(required)]
    pub next: Option<EntityId>,
}

/// List stores, page by page
#[utoipa::path(get, path = "/stores", operation_id = "listStores", tag = "stores", params(ListQuery), responses(
    (status = 200, description = "A page", body = StorePage),
))]
pub async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<StorePage>, Problem> {
    let limit = PAGE.rows(query.limit);
    let limit = limit.map_err(|error| Problem::parameter("limit", error.to_string()))?;
    let after = query.after.filter(|after| !after.is_empty());
    let after = after.map(|after| EntityId::new(&after)).transpose();
    let after = after.map_err(|error| Problem::parameter("after", error.to_string()))?;
    let mut items = app.stores.page(after.as_ref(), limit + 1).await?;
    let next = cut(&mut items, limit, |last| last.id.clone());
    Ok(axum::Json(StorePage { items, next }))
}

/// Create a store
///
/// Generates an ID if the body has none.
#[utoipa::path(post, path = "/stores", operation_id = "createStore", tag = "stores", request_body(content = ref("#/components/schemas/NewStore")), responses(
    (status = 201, description = "Created", body = Store, headers(
        ("Location" = String, description = "Its path"),
        ("ETag" = String, description = "Its version, in quotes"),
        ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
    )),
    (status = 409, description = "A store with this ID already exists"),
))]
pub async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let json = read_json(&headers, JSON, body).await?;
    let fresh = EntityId::new(&uuid::Uuid::now_v7().to_string()).expect("a UUID is an id");
    let store = Store::read(&json, GivenId::InBodyOr(&fresh))?;
    let condition = condition(&headers);
    let decide = |found: &_| decide::create(found, &condition, &store);
    let written = app.stores.write(&store.id, decide).await?;
    let location = format!("/stores/{}", subject::encode_token(&store.id));
    let location = HeaderValue::from_str(&location).expect("a token is a header value");
    Ok(([(header::LOCATION, location)], answer(&app, &store.id, written)).into_response())
}

/// Read a store
#[utoipa::path(get, path = "/stores/{id}", operation_id = "getStore", tag = "stores", params(
    ("id" = EntityId, Path, description = "The store's ID, percent-encoded"),
    IfNoneMatch,
), responses(
    (status = 200, description = "The store", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes"),
    )),
    (status = 304, description = "It has a version that the request named"),
    (status = 404, description = "It never existed"),
    (status = 410, description = "It was deleted"),
))]
pub async fn get_one(
    State(app): State<App>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = app.stores.get(&id).await?;
    let (store, version) = found.live()?;
    // A cache may store it but must revalidate each time: the owner returns the current state.
    let cached = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    Ok((cached, read_answer(&headers, version, store)).into_response())
}

/// Write a whole store
///
/// Fields that the body omits get their defaults. Brings a deleted store back.
#[utoipa::path(put, path = "/stores/{id}", operation_id = "putStore", tag = "stores", request_body(content = ref("#/components/schemas/NewStore")), params(
    ("id" = EntityId, Path, description = "The store's ID, percent-encoded"),
    IfMatch,
), responses(
    (status = 200, description = "Replaced, or already so", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes; unchanged if nothing changed"),
        ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
    )),
    (status = 201, description = "Created", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes"),
        ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
    )),
    (status = 412, description = "The store does not have a version that the request requires"),
))]
pub async fn put(
    State(app): State<App>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let json = read_json(&headers, JSON, body).await?;
    let store = Store::read(&json, GivenId::InPath(&id))?;
    let condition = condition(&headers);
    let written = app.stores.write(&id, |found| decide::put(found, &condition, &store)).await?;
    Ok(answer(&app, &id, written))
}

/// Change some fields of a store
///
/// RFC 7396: named fields are replaced, `null` resets a field to its default, lists are replaced completely.
#[utoipa::path(patch, path = "/stores/{id}", operation_id = "patchStore", tag = "stores",
request_body(content(
    (ref("#/components/schemas/StorePatch") = "application/merge-patch+json"),
    (ref("#/components/schemas/StorePatch") = "application/json"),
)), params(
    ("id" = EntityId, Path, description = "The store's ID, percent-encoded"),
    IfMatch,
), responses(
    (status = 200, description = "Changed, or unchanged if it had this state already", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes; unchanged if nothing changed"),
        ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
    )),
    (status = 404, description = "It never existed"),
    (status = 410, description = "It was deleted"),
    (status = 412, description = "The store does not have a version that the request requires"),
))]
pub async fn patch(
    State(app): State<App>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let json = read_json(&headers, PATCH, body).await?;
    let condition = condition(&headers);
    let written = app.stores.write(&id, |found| decide::patch(found, &condition, &json)).await?;
    Ok(answer(&app, &id, written))
}

/// Delete a store
#[utoipa::path(delete, path = "/stores/{id}", operation_id = "deleteStore", tag = "stores", params(
    ("id" = EntityId, Path, description = "The store's ID, percent-encoded"),
    IfMatch,
), responses(
    (status = 204, description = "Deleted", headers(
        ("ETag" = String, description = "The version of its tombstone, in quotes"),
        ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
    )),
    (status = 404, description = "It never existed"),
    (status = 410, description = "It was deleted"),
    (status = 412, description = "The store does not have a version that the request requires"),
))]
pub async fn delete(
    State(app): State<App>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let condition = condition(&headers);
    let written = app.stores.write(&id, |found| decide::delete(found, &condition)).await?;
    Ok(answer(&app, &id, written))
}

/// The condition of a write.
fn condition(headers: &HeaderMap) -> Condition {
    Condition { only_if: if_match(headers), unless: if_none_match(headers) }
}

/// The response to a write: the new state, its version, and the token that identifies the write.
fn answer(app: &App, id: &EntityId, written: Written) -> Response {
    let status = match written.effect {
        Effect::Created => StatusCode::CREATED,
        Effect::Updated | Effect::Unchanged => StatusCode::OK,
        Effect::Deleted => StatusCode::NO_CONTENT,
    };
    let headers = write_headers(&app.stores.publisher().token(id, written.version));
    match written.store {
        Some(store) => (status, headers, axum::Json(store)).into_response(),
        None => (status, headers).into_response(),
    }
}
