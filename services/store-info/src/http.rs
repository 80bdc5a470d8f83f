//! The HTTP edge: turns requests into decisions of the domain, and results into responses.
//!
//! | module | routes |
//! |---|---|
//! | [`stores`] | `/stores` and `/stores/{id}` |
//! | [`import`] | `/stores/import` |
//! | [`operations`] | `/livez` `/readyz` `/metrics` |
//!
//! `/sync/v1/store/…` is the publisher's, over this service's states.

pub mod import;
pub mod operations;
pub mod stores;

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    routing::get,
};
use nudge_protocol::Unambiguous;
use nudge_runtime::{
    Problem,
    body::{MAX_BODY_BYTES, parse, read_body, require_content_type},
    problem::FieldError,
};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    domain::{Invalid, Refusal},
    storage::{Stores, WriteError},
};

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct App {
    /// The stores.
    pub stores: Stores,
    /// The metrics for `/metrics`.
    pub registry: Arc<Registry>,
    /// Cancelled to stop the service.
    pub stop: CancellationToken,
}

/// The service's own routes.
pub fn routes() -> OpenApiRouter<App> {
    let one = get(stores::get_one).put(stores::put).patch(stores::patch).delete(stores::delete);
    OpenApiRouter::default()
        .routes(routes!(stores::list, stores::create))
        .routes(routes!(import::import))
        .routes(routes!(stores::get_one, stores::put, stores::patch, stores::delete))
        // "import" is also a valid ID: only POST means something else there.
        .route("/stores/import", one)
        .routes(routes!(operations::livez))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
}

/// A JSON body of one of these content types.
async fn read_json(headers: &HeaderMap, accepted: &[&str], body: Body) -> Result<Value, Problem> {
    require_content_type(headers, accepted)?;
    let json: Unambiguous = parse(&read_body(body, MAX_BODY_BYTES).await?)?;
    Ok(json.0)
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let faults = invalid.0.into_iter();
        let error = faults.map(|fault| FieldError { field: fault.field, detail: fault.detail });
        Problem::fields(error.collect())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Problem::new(StatusCode::NOT_FOUND, "there is no such store"),
            Refusal::Deleted(version) => Problem::new(StatusCode::GONE, "the store was deleted")
                .with("version", version.get()),
            // It names the store, and was logged already.
            Refusal::Unreadable(problem) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
            }
            Refusal::Exists => Problem::field("id", "a store with this id already exists")
                .with_status(StatusCode::CONFLICT),
            Refusal::NotExpected => {
                Problem::field("If-Match", "the store does not have this version")
                    .with_status(StatusCode::PRECONDITION_FAILED)
            }
            Refusal::Unwanted => Problem::field("If-None-Match", "the store has this version")
                .with_status(StatusCode::PRECONDITION_FAILED),
            Refusal::Invalid(invalid) => invalid.into(),
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            WriteError::Database(error) => error.into(),
            WriteError::NotCaptured => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "changes of stores are not being captured",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("2")),
        }
    }
}
