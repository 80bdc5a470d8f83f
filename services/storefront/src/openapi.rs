//! The parts of the OpenAPI document that no route provides.

use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: storefront",
        description = "What front ends show of stores: pages, and lists that search, ads or favourites choose. Everything \
            shown comes from this service's own view of stores and reviews, which follows store-info and review; the \
            same view is at `/graphql`, whose schema is `api/storefront.graphql`. A request that carries the \
            `Nudge-Token` of writes to stores and reviews waits until these are applied here. Which stores a list \
            contains is known to its source alone, which may apply them later.",
    ),
    tags(
        (name = "stores", description = "Pages and lists of stores"),
        (name = "graphql", description = "The same, as GraphQL"),
    ),
    servers((url = "http://127.0.0.1:7104", description = "By default")),
)]
struct About;

/// The head of `api/storefront.openapi.json`.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    About::openapi()
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::{outdated, stray_paths};

    use crate::{graphql, http, service};

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("storefront", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }

    #[test]
    fn the_schema_in_the_repository_is_the_code() {
        let written = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/storefront.graphql");
        assert!(
            std::fs::read_to_string(written).unwrap_or_default() == graphql::sdl(),
            "api/storefront.graphql is out of date: regenerate it with\n\
             cargo run -q -p storefront --example graphql > api/storefront.graphql"
        );
    }
}
