//! `/stores` and `/stores/{id}`.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{EntityId, subject};
use nudge_publisher::conditional::{
    IfMatch, IfNoneMatch, etag, if_match, if_none_match, write_headers,
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

/// Stores on a page.
const PAGE: PageSize = PageSize { default: 50, max: 500 };

const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Begin after this id: the `next` of the page before.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    after: Option<String>,
    /// Stores wanted.
    #[param(minimum = 1, maximum = 500, default = 50, nullable = false)]
    limit: Option<usize>,
}

/// A page of the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct StorePage {
    /// The stores, in bytewise order of their ids.
    pub items: Vec<Store>,
    /// Pass it as `after` for the next page; null on the last.
    #[schema(required)]
    pub next: Option<EntityId>,
}

/// The stores, a page at a time
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
/// Makes an id when the body has none.
#[utoipa::path(post, path = "/stores", operation_id = "createStore", tag = "stores", request_body(content = ref("#/components/schemas/NewStore")), responses(
    (status = 201, description = "Created", body = Store, headers(
        ("Location" = String, description = "Its path"),
        ("ETag" = String, description = "Its version, in quotes"),
        ("Nudge-Token" = String, description = "Names this write to readers"),
    )),
    (status = 409, description = "A store with this id exists already"),
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
    ("id" = EntityId, Path, description = "Its id, percent-encoded"),
    IfNoneMatch,
), responses(
    (status = 200, description = "The store", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes"),
    )),
    (status = 304, description = "It is in a version that the request named"),
    (status = 404, description = "There never was such a store"),
    (status = 410, description = "It was deleted"),
))]
pub async fn get_one(
    State(app): State<App>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = app.stores.get(&id).await?;
    let (store, version) = found.live()?;
    // A cache may keep it but has to ask each time: the owner answers with what is.
    let cached = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    let headers_out = (cached, [(header::ETAG, etag(version))]);
    if if_none_match(&headers).is_some_and(|seen| seen.matches(Some(version))) {
        return Ok((StatusCode::NOT_MODIFIED, headers_out).into_response());
    }
    Ok((headers_out, axum::Json(store)).into_response())
}

/// Write a whole store
///
/// What the body leaves out gets its default. Brings a deleted store back.
#[utoipa::path(put, path = "/stores/{id}", operation_id = "putStore", tag = "stores", request_body(content = ref("#/components/schemas/NewStore")), params(
    ("id" = EntityId, Path, description = "Its id, percent-encoded"),
    IfMatch,
), responses(
    (status = 200, description = "Replaced, or already so", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes; the old one when nothing changed"),
        ("Nudge-Token" = String, description = "Names this write to readers"),
    )),
    (status = 201, description = "Created", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes"),
        ("Nudge-Token" = String, description = "Names this write to readers"),
    )),
    (status = 412, description = "The store is not in a version that the request wants"),
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
/// RFC 7396: what is named is replaced, `null` brings back the default, lists are replaced whole.
#[utoipa::path(patch, path = "/stores/{id}", operation_id = "patchStore", tag = "stores",
request_body(content(
    (ref("#/components/schemas/StorePatch") = "application/merge-patch+json"),
    (ref("#/components/schemas/StorePatch") = "application/json"),
)), params(
    ("id" = EntityId, Path, description = "Its id, percent-encoded"),
    IfMatch,
), responses(
    (status = 200, description = "Changed, or already so", body = Store, headers(
        ("ETag" = String, description = "Its version, in quotes; the old one when nothing changed"),
        ("Nudge-Token" = String, description = "Names this write to readers"),
    )),
    (status = 404, description = "There never was such a store"),
    (status = 410, description = "It was deleted"),
    (status = 412, description = "The store is not in a version that the request wants"),
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
    ("id" = EntityId, Path, description = "Its id, percent-encoded"),
    IfMatch,
), responses(
    (status = 204, description = "Deleted", headers(
        ("ETag" = String, description = "The version of its tombstone, in quotes"),
        ("Nudge-Token" = String, description = "Names this write to readers"),
    )),
    (status = 404, description = "There never was such a store"),
    (status = 410, description = "It was deleted"),
    (status = 412, description = "The store is not in a version that the request wants"),
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

/// What a write is conditional on.
fn condition(headers: &HeaderMap) -> Condition {
    Condition { only_if: if_match(headers), unless: if_none_match(headers) }
}

/// The answer to a write: what is there now, its version, and the token that names the write.
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
