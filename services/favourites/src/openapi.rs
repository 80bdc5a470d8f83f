//! The parts of the OpenAPI document that no route provides.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: favourites",
        description = "The favourite stores of users. What this service knows of stores is its own copy, which follows \
            store-info. A request that carries the `Nudge-Token` of a write waits until that write is applied here.",
    ),
    tags((name = "favourites", description = "Users' favourite stores")),
    servers((url = "http://127.0.0.1:7105", description = "By default")),
)]
struct About;

/// The head of `api/favourites.openapi.json`.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    About::openapi()
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::{outdated, stray_paths};

    use crate::{http, service};

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("favourites", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }
}
