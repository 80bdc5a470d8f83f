//! The OpenAPI document: what the routes do not say of themselves.

use axum::Router;
use nudge_subscriber_kit::openapi::{routes, waits};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::http;

#[derive(OpenApi)]
#[openapi(
    info(title = "search", description = "Finds stores by text and filters; answers with their ids first."),
    tags((name = "stores", description = "Stores, to be found")),
    servers((url = "http://127.0.0.1:7102", description = "`make demo`"))
)]
struct About;

/// The document as JSON text, as it stands in `api/search.openapi.json`.
pub fn document() -> String {
    let mut own = http::routes().into_openapi();
    waits(&mut own);
    nudge_runtime::openapi::document(About::openapi(), [own, routes()])
}

/// Serves these routes, and the document that describes them.
pub fn served(router: OpenApiRouter) -> Router {
    nudge_runtime::openapi::served(About::openapi(), router)
}
