//! The service's own endpoints. They translate HTTP and decide nothing.

mod wire;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{EntityId, Version};
use nudge_publisher::conditional::{
    Expected, IfMatch, IfNoneMatch, if_match, read_answer, write_headers,
};
use nudge_runtime::{
    Problem,
    body::{Json, Query},
    path::PathId,
    problem::FieldError,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    domain::{Draft, Review},
    draft::{Fault, Fields},
    reviews::{Reviews, Versioned},
};
use wire::{PageQuery, StorePage};

/// The routes of reviews.
pub fn routes() -> OpenApiRouter<Reviews> {
    OpenApiRouter::default().routes(routes!(create, list)).routes(routes!(read, rewrite, remove))
}

/// Write a review of a store
///
/// Whether the store takes reviews is decided from this service's own copy of it. To wait until a write to
/// the store has arrived here, pass its `Nudge-Token`.
#[utoipa::path(
    post, path = "/stores/{id}/reviews", operation_id = "writeReview", tag = "reviews",
    params(("id" = EntityId, Path, description = "The store")),
    request_body = Draft,
    responses(
        (status = 201, description = "Written", body = Review, headers(
            ("Location" = String, description = "Where the review is"),
            ("ETag" = String, description = "Its version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 404, description = "No store with this ID is known"),
        (status = 409, description = "The store is closed"),
        (status = 410, description = "The store was deleted"),
    ),
)]
pub(crate) async fn create(
    State(reviews): State<Reviews>,
    PathId(store_id): PathId<EntityId>,
    Json(fields): Json<Fields>,
) -> Result<Response, Problem> {
    let written = reviews.create(&store_id, draft(fields)?).await?;
    let location = HeaderValue::try_from(format!("/reviews/{}", written.review.id))
        .expect("the service's own ids are header values");
    let mut response = written_as(StatusCode::CREATED, &reviews, written);
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// List a store's reviews, newest first
#[utoipa::path(
    get, path = "/stores/{id}/reviews", operation_id = "listReviews", tag = "reviews",
    params(("id" = EntityId, Path, description = "The store"), PageQuery),
    responses(
        (status = 200, description = "A page", body = StorePage),
        (status = 404, description = "No store with this ID is known"),
        (status = 410, description = "The store was deleted; its reviews are kept but not shown"),
    ),
)]
pub(crate) async fn list(
    State(reviews): State<Reviews>,
    PathId(store_id): PathId<EntityId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<StorePage>, Problem> {
    let (after, limit) = query.checked()?;
    let found = reviews.of_store(&store_id, after.as_ref(), limit).await?;
    Ok(axum::Json(StorePage::new(store_id, found)))
}

/// Read a review
#[utoipa::path(
    get, path = "/reviews/{id}", operation_id = "readReview", tag = "reviews",
    params(("id" = EntityId, Path, description = "The review"), IfNoneMatch),
    responses(
        (status = 200, description = "The review", body = Review, headers(
            ("ETag" = String, description = "Its version"),
        )),
        (status = 304, description = "It still has the version that the request named"),
        (status = 404, description = "No such review"),
        (status = 410, description = "The review or its store was deleted"),
    ),
)]
pub(crate) async fn read(
    State(reviews): State<Reviews>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Versioned { review, version } = reviews.get(&id).await?;
    Ok(read_answer(&headers, version, review))
}

/// Rewrite a review
///
/// Also allowed while the store is closed, so that authors can edit their reviews. Sending the same content
/// again changes nothing and keeps the version.
#[utoipa::path(
    put, path = "/reviews/{id}", operation_id = "rewriteReview", tag = "reviews",
    params(("id" = EntityId, Path, description = "The review"), IfMatch),
    request_body = Draft,
    responses(
        (status = 200, description = "Rewritten", body = Review, headers(
            ("ETag" = String, description = "Its version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 404, description = "No such review"),
        (status = 410, description = "The review or its store was deleted"),
        (status = 412, description = "The review does not have a version that the request requires"),
    ),
)]
pub(crate) async fn rewrite(
    State(reviews): State<Reviews>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
    Json(fields): Json<Fields>,
) -> Result<Response, Problem> {
    let wanted = if_match(&headers);
    let written = reviews.rewrite(&id, draft(fields)?, |now| matches(&wanted, now)).await?;
    Ok(written_as(StatusCode::OK, &reviews, written))
}

/// Delete a review
#[utoipa::path(
    delete, path = "/reviews/{id}", operation_id = "deleteReview", tag = "reviews",
    params(("id" = EntityId, Path, description = "The review"), IfMatch),
    responses(
        (status = 204, description = "Deleted", headers(
            ("ETag" = String, description = "The tombstone's version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 404, description = "No such review"),
        (status = 410, description = "It was deleted already"),
        (status = 412, description = "The review does not have a version that the request requires"),
    ),
)]
pub(crate) async fn remove(
    State(reviews): State<Reviews>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = if_match(&headers);
    let version = reviews.delete(&id, |now| matches(&wanted, now)).await?;
    Ok((StatusCode::NO_CONTENT, write_headers(&reviews.token(&id, version))).into_response())
}

fn matches(wanted: &Option<Expected>, standing: Version) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted.matches(Some(standing)))
}

fn draft(fields: Fields) -> Result<Draft, Problem> {
    fields.into_draft().map_err(|faults| {
        let error = |fault: Fault| FieldError { field: fault.field, detail: fault.detail };
        Problem::fields(faults.into_iter().map(error).collect())
    })
}

fn written_as(status: StatusCode, reviews: &Reviews, written: Versioned) -> Response {
    let headers = write_headers(&reviews.token(&written.review.id, written.version));
    (status, headers, axum::Json(written.review)).into_response()
}
