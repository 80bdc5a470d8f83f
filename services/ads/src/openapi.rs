//! The parts of the OpenAPI document that no route provides.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: ads",
        description = "Campaigns for stores, and which stores to advertise now. What this service knows of stores is its \
            own copy, which follows store-info. A request that carries the `Nudge-Token` of a write waits until that write \
            is applied here.",
    ),
    tags(
        (name = "campaigns", description = "What is advertised"),
        (name = "ads", description = "What to advertise now"),
    ),
    servers((url = "http://127.0.0.1:7106", description = "By default")),
)]
struct About;

/// The head of `api/ads.openapi.json`.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    About::openapi()
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::{outdated, stray_paths};

    use crate::{http, service};

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("ads", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }
}
