//! A span for each request that is answered.

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::HeaderMap,
    middleware::{Next, from_fn_with_state},
    response::Response,
};

use super::{Kind, Parent, Span, TRACEPARENT, Traces, within};
use crate::clock;

/// Paths below which a trace is not begun: a scrape every few seconds tells nobody anything.
const NOT_BEGUN: [&str; 5] = ["/livez", "/readyz", "/metrics", "/openapi.json", "/nudge/"];

pub(super) fn layer(router: Router, traces: Traces) -> Router {
    router.layer(from_fn_with_state(traces, answer))
}

async fn answer(State(traces): State<Traces>, request: Request, next: Next) -> Response {
    let parent = parent(request.headers());
    let path = request.uri().path();
    if parent == Parent::None && NOT_BEGUN.iter().any(|prefix| path.starts_with(prefix)) {
        return next.run(request).await;
    }
    let Some(context) = traces.begin(parent) else {
        return next.run(request).await;
    };
    let method = request.method().as_str().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let start = clock::now();
    let response = within(Some(context), next.run(request)).await;
    // The path itself holds IDs, which would make as many names as there are entities.
    let name = route.as_ref().map_or_else(|| method.clone(), |route| format!("{method} {route}"));
    let status = response.status();
    let mut span = Span::new(name, Kind::Server, context, start, clock::now())
        .with("http.request.method", method)
        .with("http.response.status_code", i64::from(status.as_u16()));
    span.attributes.extend(route.map(|route| ("http.route", route.into())));
    if let Parent::Sampled(parent) = parent {
        span = span.child_of(parent);
    }
    span.error = status.is_server_error().then(|| status.to_string());
    traces.record(span);
    response
}

fn parent(headers: &HeaderMap) -> Parent {
    // Two of them are one too many to know which.
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_or(Parent::None, Parent::read),
        _ => Parent::None,
    }
}
