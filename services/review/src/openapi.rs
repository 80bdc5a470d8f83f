//! The parts of the OpenAPI document that no route provides.

use nudge_protocol::sync_api::State;
use utoipa::{
    ToSchema,
    openapi::{Components, OpenApi, Ref},
};

use crate::domain::Review;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Nudge: review",
        description = "Reviews of stores. Whether a store takes reviews is decided from this \
            service's own copy of the stores, which follows store-info. A request that carries the \
            `Nudge-Token` of a write waits until that write is applied here.",
    ),
    tags((name = "reviews", description = "Reviews of stores")),
)]
struct About;

/// The head of `api/review.openapi.json`.
pub(crate) fn head() -> OpenApi {
    let mut about = <About as utoipa::OpenApi>::openapi();
    let schemas = &mut about.components.get_or_insert_with(Components::new).schemas;
    // The sync API's `State` is a review here.
    schemas.insert(State::name().into(), Ref::from_schema_name(Review::name()).into());
    about
}

#[cfg(test)]
mod tests {
    use nudge_runtime::{
        openapi::{outdated, stray_paths},
        problem::PROBLEM_JSON,
    };

    use crate::{http, service};

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("review", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }

    #[test]
    fn every_error_is_a_problem_and_the_shared_ones_are_everywhere() {
        let api: serde_json::Value = serde_json::from_str(&service().document()).unwrap();
        assert_eq!(api["openapi"], "3.1.0");
        assert_eq!(api["components"]["schemas"]["Draft"]["additionalProperties"], false);
        let (mut operations, mut own) = (0, 0);
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                operations += 1;
                let answers = operation["responses"].as_object().unwrap();
                if operation["tags"][0] == "reviews" {
                    own += 1;
                    assert!(answers.contains_key("504") && answers.contains_key("410"), "{method}");
                    let takes_body = ["put", "post"].contains(&method.as_str());
                    assert_eq!(answers.contains_key("422"), takes_body);
                }
                for (status, answer) in answers {
                    // These two have bodies of their own.
                    let special = [("/sync/v1/review/{id}", "410"), ("/readyz", "503")];
                    let error = status.starts_with(['4', '5']);
                    let error = error && !special.contains(&(path, status));
                    let schema = &answer["content"][PROBLEM_JSON]["schema"]["$ref"];
                    let problem = schema == "#/components/schemas/Problem";
                    assert_eq!(problem, error, "{method} {path} {status}");
                }
            }
        }
        assert_eq!((operations, own), (32, 5));
    }
}
