//! The OpenAPI document: what the routes do not say of themselves.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(title = "search", description = "Finds stores by text and filters; answers with their ids first."),
    tags((name = "stores", description = "Stores, to be found")),
    servers((url = "http://127.0.0.1:7102", description = "`make demo`"))
)]
struct About;

/// The head of `api/search.openapi.json`.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    About::openapi()
}
