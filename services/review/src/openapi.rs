//! The OpenAPI document of the service's own endpoints. The sync API and the routes that every
//! subscriber has are the same everywhere, and described with their crates.

use nudge_runtime::problem::PROBLEM_JSON;
use utoipa::{
    IntoParams, Modify, OpenApi, ToSchema,
    openapi::{RefOr, Response, content::ContentBuilder, schema::Ref},
};

/// The document as JSON, indented, with a line feed at its end.
pub fn document() -> String {
    let json = Api::openapi().to_pretty_json().expect("a document of plain values serializes");
    json + "\n"
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: review",
        description = "Reviews of stores. Whether a store takes reviews is decided by this \
            service's own copy of the stores, which follows store-info; a request that carries the \
            Nudge-Token of a write waits until that write is known here.",
    ),
    paths(
        crate::http::create,
        crate::http::list,
        crate::http::read,
        crate::http::rewrite,
        crate::http::remove,
    ),
    components(schemas(ProblemDocument, FieldErrorDocument)),
    modifiers(&Problems),
)]
struct Api;

/// An error (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes nudge_runtime::Problem")]
struct ProblemDocument {
    /// The HTTP status.
    status: u16,
    /// The status in words.
    title: String,
    /// What is wrong, for a person.
    detail: Option<String>,
    /// The fields that are wrong, when that is the reason: all of them.
    #[schema(nullable = false)]
    errors: Option<Vec<FieldErrorDocument>>,
}

/// One field that was wrong.
#[derive(ToSchema)]
#[schema(as = FieldError)]
#[expect(dead_code, reason = "describes nudge_runtime::problem::FieldError")]
struct FieldErrorDocument {
    /// Its name, or that of a parameter or header.
    field: String,
    /// What it should be.
    detail: String,
}

/// The header that any request may carry.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only described here; the subscriber kit reads it")]
pub(crate) struct TokenHeader {
    /// Wait (2 s at most) until this write, or these with commas between them, is known here.
    #[param(rename = "Nudge-Token", nullable = false, example = "store/42@1767225600000001")]
    nudge_token: Option<String>,
}

/// The condition of a write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only described here; the handlers read the header")]
pub(crate) struct IfMatchHeader {
    /// Versions of which one must stand, as `ETag` told them.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
}

/// The condition of a read.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only described here; the handlers read the header")]
pub(crate) struct IfNoneMatchHeader {
    /// Versions that the caller has, as `ETag` told them.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// Errors that any request may meet.
const ALWAYS: [(&str, &str); 3] = [
    ("400", "A parameter, a header or the JSON is malformed; the problem names it"),
    ("503", "The database is busy or gone"),
    ("504", "The write of `Nudge-Token` is not known here yet"),
];
/// Errors that any request with a body may meet.
const WITH_BODY: [(&str, &str); 3] = [
    ("413", "The body is too large"),
    ("415", "The body is not `application/json`"),
    ("422", "The body is wrong; the problem names all the fields that are"),
];

/// Adds the errors that endpoints share, and gives every error its body.
struct Problems;

impl Modify for Problems {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for path in api.paths.paths.values_mut() {
            let methods = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete];
            for operation in methods.into_iter().flatten() {
                let answers = &mut operation.responses.responses;
                let with_body = WITH_BODY.into_iter().filter(|_| operation.request_body.is_some());
                for (status, description) in ALWAYS.into_iter().chain(with_body) {
                    let answer = RefOr::T(Response::new(description));
                    answers.entry(status.to_owned()).or_insert(answer);
                }
                for (status, answer) in answers {
                    if let (true, RefOr::T(answer)) = (status.starts_with(['4', '5']), answer) {
                        let schema = Ref::from_schema_name("Problem");
                        let content = ContentBuilder::new().schema(Some(schema)).build();
                        answer.content.insert(PROBLEM_JSON.to_owned(), RefOr::T(content));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/review.openapi.json");

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        let written = std::fs::read_to_string(WRITTEN).unwrap_or_default();
        assert!(
            written == document(),
            "api/review.openapi.json is out of date: write it again with\n\
             cargo run -q -p review -- openapi > api/review.openapi.json"
        );
    }

    #[test]
    fn every_error_is_a_problem_and_the_shared_ones_are_everywhere() {
        let api: serde_json::Value = serde_json::from_str(&document()).unwrap();
        assert_eq!(api["openapi"], "3.1.0");
        assert_eq!(api["components"]["schemas"]["Draft"]["additionalProperties"], false);
        let mut operations = 0;
        for (method, operation) in
            api["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap())
        {
            operations += 1;
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key("504") && answers.contains_key("410"), "{method}");
            assert_eq!(answers.contains_key("422"), ["put", "post"].contains(&method.as_str()));
            for (status, answer) in answers {
                let schema = &answer["content"][PROBLEM_JSON]["schema"]["$ref"];
                let problem = schema == "#/components/schemas/Problem";
                assert_eq!(problem, status.starts_with(['4', '5']), "{method} {status}");
            }
        }
        assert_eq!(operations, 5);
    }
}
