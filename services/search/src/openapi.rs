//! The OpenAPI document of the service's own endpoints.

use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use crate::http;

#[derive(OpenApi)]
#[openapi(
    info(title = "search", description = "Finds stores by text and filters; answers with their ids first."),
    paths(http::search_stores),
    servers((url = "http://127.0.0.1:7102", description = "`make demo`"))
)]
struct Document;

/// The document as JSON text, as it stands in `api/search.openapi.json`.
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().expect("the document is plain data");
    text.push('\n');
    text
}

/// An error, RFC 9457. Only the shape for the document: what is sent is `nudge_runtime::Problem`.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// The HTTP status.
    status: u16,
    /// The status in words.
    title: String,
    /// What is wrong.
    detail: Option<String>,
    /// The parameters that are wrong, when that is the reason.
    errors: Option<Vec<WrongField>>,
}

/// One parameter that is wrong.
#[derive(Serialize, ToSchema)]
struct WrongField {
    /// Its name.
    field: String,
    /// What it should be.
    detail: String,
}
