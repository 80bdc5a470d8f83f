//! The OpenAPI documents of a subscriber, available without starting one.

use nudge_runtime::openapi::{may_answer, operations, text};
use utoipa::{IntoParams, openapi::OpenApi};

use super::admin;

/// The routes that every subscriber has: those of
/// [`Subscriber::openapi_router`](crate::Subscriber::openapi_router).
pub fn routes() -> OpenApi {
    admin::routes().into_openapi()
}

/// Those of a service that follows nothing, and only owns.
pub(crate) fn health() -> OpenApi {
    admin::health().into_openapi()
}

/// The OpenAPI document of these routes alone, as text: `api/subscriber.openapi.json`.
pub fn document() -> String {
    text(routes(), &[])
}

/// The header that a request to the service's own endpoints may carry.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "described here, read from the headers")]
struct TokenHeader {
    /// Wait up to 2 s until this write is applied here; several writes are separated by commas.
    #[param(
        rename = "Nudge-Token",
        nullable = false,
        pattern = "^[a-z][a-z0-9_-]{0,39}/([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+@[0-9]{1,16}( *, *[a-z][a-z0-9_-]{0,39}/([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+@[0-9]{1,16})*$",
        example = "store/42@1767225600000001"
    )]
    nudge_token: Option<String>,
}

/// Adds to every operation what [`Subscriber::wait_layer`](crate::Subscriber::wait_layer) adds to its route.
pub fn waits(document: &mut OpenApi) {
    for operation in operations(document) {
        let header = TokenHeader::into_params(|| None).into_iter().map(Into::into);
        operation.parameters.get_or_insert_default().extend(header);
        may_answer(operation, "504", "The write that `Nudge-Token` names is not applied here yet");
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::stray_paths;
    use utoipa::openapi::{RefOr, path::Parameter};

    use super::*;

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(admin::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        let written = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/subscriber.openapi.json");
        assert!(
            std::fs::read_to_string(written).unwrap_or_default() == document(),
            "api/subscriber.openapi.json is out of date: regenerate it with\n\
             cargo run -q -p nudge-subscriber-kit --example openapi > api/subscriber.openapi.json"
        );
    }

    #[test]
    fn a_route_that_waits_says_so() {
        let mut document = routes();
        waits(&mut document);
        for operation in operations(&mut document) {
            let parameters = operation.parameters.iter().flatten();
            let named =
                |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.name == "Nudge-Token");
            assert_eq!(parameters.filter(|one| named(one)).count(), 1);
            assert!(operation.responses.responses.contains_key("504"));
        }
    }
}
