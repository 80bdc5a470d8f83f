//! The parts of the OpenAPI document that no route provides.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(title = "search", description = "Finds stores by text and filters. An answer lists the IDs first, then the stores."),
    tags((name = "stores", description = "Searching stores")),
    servers((url = "http://127.0.0.1:7102", description = "`make demo`"))
)]
struct About;

/// The head of `api/search.openapi.json`.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    About::openapi()
}
