//! OpenAPI documents generated from the routers that they describe.
//!
//! `routes!` of utoipa-axum adds a handler to a router and its annotation to the router's document at
//! once, so the two cannot drift apart. Here is what all documents share: the form of errors, which of them follow
//! from the shape of a request, which scope each operation needs, and the route that returns the document.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{Method, header},
    response::{IntoResponse, Response as Answer},
};
use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        Content, OpenApi, Ref, RefOr, Required, Response,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::policy::needed,
    problem::{PROBLEM_JSON, Problem},
};

/// Errors of an operation with any input: a parameter, a header, a body.
const OF_PARAMETERS: [(&str, &str); 2] = [
    ("400", "The request is malformed; the problem says where"),
    ("503", "The database is busy or unavailable"),
];
/// Additional errors of an operation with a body.
const OF_BODIES: [(&str, &str); 4] = [
    ("408", "The body did not arrive in time"),
    ("413", "The body is too large"),
    ("415", "The body has an unsupported content type"),
    ("422", "The body is invalid; the problem names the wrong fields"),
];

/// The content type of a body that is processed line by line.
const LINES: &str = "application/x-ndjson";

/// Errors of an operation that needs a token, where tokens are asked for.
const OF_TOKENS: [(&str, &str); 3] = [
    ("401", "The request has no good token"),
    ("403", "The token does not allow this"),
    ("503", "The issuer's keys are not known yet"),
];
/// What the scheme of the tokens is called.
const BEARER: &str = "bearerAuth";
const BEARER_DESCRIPTION: &str = "A JWT of the issuer that the service was told of by `AUTH_ISSUER`; its claim \
    `scope` must name what the operation needs. Without that setting, the service listens on loopback addresses only, \
    and asks nobody.";

/// Serves these routes, and at `/openapi.json` the document that describes them. `about` holds what no
/// route provides: title, description, tags. `reads` are the paths where a `POST` only reads, as for
/// [`Admission::reads`](crate::auth::Admission::reads).
pub fn served(about: OpenApi, router: OpenApiRouter, reads: &[&str]) -> Router {
    let (router, routes) = router.split_for_parts();
    let text: Arc<str> = document(about, [routes], reads).into();
    router.merge(itself().with_state(text))
}

/// The document that [`served`] returns, for the same routes in parts, in any order.
pub fn document(
    about: OpenApi,
    routes: impl IntoIterator<Item = OpenApi>,
    reads: &[&str],
) -> String {
    let mut document = about;
    for part in routes.into_iter().chain([itself().into_openapi()]) {
        document.merge(part);
    }
    text(document, reads)
}

/// A document as text: JSON, indented, with a line feed at its end. Adds what documents share.
pub fn text(mut document: OpenApi, reads: &[&str]) -> String {
    secure(&mut document, reads);
    operations(&mut document).for_each(complete);
    let mut problem = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut problem);
    document.components.get_or_insert_default().schemas.extend(problem);
    let mut text = document.to_pretty_json().expect("a document is made of text and numbers");
    text.push('\n');
    text
}

/// Every operation of a document.
pub fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|path| of_path(path).map(|(_, operation)| operation))
}

fn of_path(path: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = path;
    let all = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::OPTIONS, options),
        (Method::HEAD, head),
        (Method::PATCH, patch),
        (Method::TRACE, trace),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Says of each operation which scope it needs, by the table that requests are checked with.
fn secure(document: &mut OpenApi, reads: &[&str]) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in of_path(item) {
            let Some(scope) = needed(&method, path, reads) else { continue };
            operation.security = Some(vec![SecurityRequirement::new(BEARER, [scope.name()])]);
            for (status, description) in OF_TOKENS {
                may_answer(operation, status, description);
            }
        }
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
    let bearer = SecurityScheme::Http(bearer.description(Some(BEARER_DESCRIPTION)).build());
    document.components.get_or_insert_default().add_security_scheme(BEARER, bearer);
}

/// Adds a response to an operation that does not describe this status itself.
pub fn may_answer(operation: &mut Operation, status: &str, description: &str) {
    let answers = &mut operation.responses.responses;
    answers.entry(status.to_owned()).or_insert_with(|| Response::new(description).into());
}

/// Adds the errors that follow from the shape of a request, and gives every error its body.
fn complete(operation: &mut Operation) {
    let mut whole = operation.request_body.is_some();
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        // The macro says so for types, but not for references.
        body.required = Some(Required::True);
        // A body that is processed line by line need not arrive completely in time.
        whole = !body.content.contains_key(LINES);
    }
    let (body, parameters) = (operation.request_body.is_some(), operation.parameters.is_some());
    let of_parameters = OF_PARAMETERS.iter().filter(|_| body || parameters);
    let of_bodies = OF_BODIES.iter().filter(|(status, _)| whole || (body && *status == "415"));
    for (status, description) in of_parameters.chain(of_bodies) {
        may_answer(operation, status, description);
    }
    for (status, answer) in &mut operation.responses.responses {
        if let (true, RefOr::T(answer)) = (status.starts_with(['4', '5']), answer)
            && answer.content.is_empty()
        {
            let content = Content::new(Some(Ref::from_schema_name(Problem::name())));
            answer.content.insert(PROBLEM_JSON.to_owned(), content.into());
        }
    }
}

fn itself() -> OpenApiRouter<Arc<str>> {
    OpenApiRouter::with_openapi(About::openapi()).routes(routes!(openapi_json))
}

#[derive(utoipa::OpenApi)]
#[openapi(tags((name = "operations", description = "For operators and their tools")))]
struct About;

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapiDocument", tag = "operations", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
))]
async fn openapi_json(State(text): State<Arc<str>>) -> Answer {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}

/// What to do if `api/` holds another document of a service than this one: for tests of this repository.
#[doc(hidden)]
pub fn outdated(service: &str, document: &str) -> Option<String> {
    let file = format!("api/{service}.openapi.json");
    let place = format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"));
    let written = std::fs::read_to_string(place).unwrap_or_default();
    let write = format!("cargo run -q --bin {service} -- openapi > {file}");
    (written != document).then(|| format!("{file} is out of date: regenerate it with\n{write}"))
}

/// The paths of a router that are missing in its document, and vice versa: for tests. Axum shows
/// the paths of a router only in its `Debug` text.
#[doc(hidden)]
pub fn stray_paths<S>(router: OpenApiRouter<S>) -> BTreeSet<String>
where
    S: Clone + Send + Sync + 'static,
{
    let (router, document) = router.split_for_parts();
    let text = format!("{router:?}");
    let paths = text.split_once("paths: {").map_or("", |(_, paths)| paths);
    let mut pieces = paths.split('"');
    let mut routed = BTreeSet::new();
    while let (Some(before), Some(path)) = (pieces.next(), pieces.next())
        && !before.contains('}')
    {
        routed.insert(path.to_owned());
    }
    let documented: BTreeSet<_> = document.paths.paths.into_keys().collect();
    routed.symmetric_difference(&documented).cloned().collect()
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::Request, routing::get};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    #[utoipa::path(get, path = "/plain", responses((status = 200, description = "Fine")))]
    async fn plain() {}

    #[utoipa::path(post, path = "/plain", responses((status = 200, description = "Fine")))]
    async fn ask() {}

    #[utoipa::path(get, path = "/livez", responses((status = 200, description = "Fine")))]
    async fn livez() {}

    #[utoipa::path(get, path = "/things/{id}", params(("id" = String, Path)), responses(
        (status = 200, description = "Fine"),
        (status = 404, description = "No such thing"),
        (status = 410, description = "It is gone", body = String),
    ))]
    async fn read() {}

    #[utoipa::path(put, path = "/things/{id}", request_body = String, responses(
        (status = 200, description = "Fine"),
        (status = 422, description = "No such thing can be"),
    ))]
    async fn write() {}

    fn routes() -> OpenApiRouter {
        let things = OpenApiRouter::default().routes(routes!(read, write));
        OpenApiRouter::default().routes(routes!(plain, ask)).nest("/in", things)
    }

    fn described(path: &str, method: &str) -> Value {
        let text = document(OpenApi::default(), [routes().into_openapi()], &[]);
        let document: Value = serde_json::from_str(&text).unwrap();
        document["paths"][path][method]["responses"].clone()
    }

    #[test]
    fn errors_follow_from_the_shape_of_a_request() {
        let statuses = |path, method| {
            let described = described(path, method);
            described.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(statuses("/plain", "get"), "200 401 403 503");
        assert_eq!(statuses("/in/things/{id}", "get"), "200 400 401 403 404 410 503");
        assert_eq!(statuses("/in/things/{id}", "put"), "200 400 401 403 408 413 415 422 503");
    }

    #[test]
    fn each_operation_names_the_scope_that_its_requests_are_checked_for() {
        let health = OpenApiRouter::<()>::default().routes(routes!(livez));
        let parts = [routes().into_openapi(), health.into_openapi()];
        let scope = |reads: &[&str], path: &str, method: &str| {
            let text = document(OpenApi::default(), parts.clone(), reads);
            let document: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(document["components"]["securitySchemes"][BEARER]["scheme"], "bearer");
            let operation = &document["paths"][path][method];
            assert_eq!(operation["security"].is_null(), operation["responses"]["401"].is_null());
            operation["security"][0][BEARER][0].as_str().map(str::to_owned)
        };
        assert_eq!(scope(&[], "/in/things/{id}", "get").as_deref(), Some("read"));
        assert_eq!(scope(&[], "/in/things/{id}", "put").as_deref(), Some("write"));
        assert_eq!(scope(&[], "/plain", "post").as_deref(), Some("write"));
        assert_eq!(scope(&["/plain"], "/plain", "post").as_deref(), Some("read"));
        assert_eq!(scope(&[], "/livez", "get"), None);
    }

    #[test]
    fn an_error_is_a_problem_unless_it_says_otherwise() {
        let read = described("/in/things/{id}", "get");
        let problem = &read["404"]["content"][PROBLEM_JSON]["schema"]["$ref"];
        assert_eq!(problem, "#/components/schemas/Problem");
        assert!(read["410"]["content"]["text/plain"].is_object(), "{read}");
        let write = described("/in/things/{id}", "put");
        assert_eq!(write["422"]["description"], "No such thing can be");
    }

    #[tokio::test]
    async fn what_is_served_is_the_document_with_its_own_route() {
        let request = Request::get("/openapi.json").body(axum::body::Body::empty()).unwrap();
        let answer = served(OpenApi::default(), routes(), &[]).oneshot(request).await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let text = document(OpenApi::default(), [routes().into_openapi()], &[]);
        assert_eq!(body, text.as_bytes());
        assert!(text.contains("\"/openapi.json\"") && text.ends_with("}\n"));
    }

    #[test]
    fn a_route_without_a_document_is_found_and_a_document_without_a_route() {
        assert!(stray_paths(routes()).is_empty());
        let silent = routes().route("/silent", get(plain));
        assert_eq!(Vec::from_iter(stray_paths(silent)), ["/silent"]);
        let mut promised = routes();
        let other = OpenApiRouter::<()>::default().nest("/other", routes()).into_openapi();
        promised.get_openapi_mut().merge(other);
        assert_eq!(stray_paths(promised).len(), 2);
    }
}
