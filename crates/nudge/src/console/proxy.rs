//! The page's access to the services. It talks only to the console, so the services need not allow
//! other origins.

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request},
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_runtime::{
    Problem,
    body::{MAX_BODY_BYTES, read_body},
};

use super::Console;

/// Request headers that are passed on.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::CONTENT_TYPE, header::IF_MATCH, HeaderName::from_static("nudge-token")];
/// Response headers that are passed back.
const RESPONSE_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::ETAG, header::LOCATION, HeaderName::from_static("nudge-token")];

/// Passes `/api/{service}/…` on to that service: what [`allowed`] says.
pub(super) async fn forward(
    Extension(Console { api, .. }): Extension<Console>,
    Path((name, _)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(peer) = api.peers().iter().copied().find(|peer| peer.name() == name) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no service {name:?}")));
    };
    let (parts, body) = request.into_parts();
    // Not the decoded path of the route: a `/` inside an ID must stay encoded.
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let path = target.strip_prefix(&format!("/api/{name}")).unwrap_or("/").to_owned();
    if !allowed(&parts.method, &path) {
        let detail =
            "the console passes on reads, writes of stores and reviews, and what operators do";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    if api.path_as_sent(peer, &path).as_deref() != path.split('?').next() {
        let detail = "a path must not contain the segments . and .., or a backslash";
        return Err(Problem::parameter("path", detail));
    }
    let body = read_body(body, MAX_BODY_BYTES).await?;
    let headers = only(&parts.headers, &REQUEST_HEADERS);
    let request = api.request(parts.method, peer, &path).headers(headers).body(body);
    let answer = api
        .send(peer, request)
        .await
        .map_err(|failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string()))?;
    let (status, headers) = (answer.status(), only(answer.headers(), &RESPONSE_HEADERS));
    Ok((status, headers, Body::from_stream(answer.bytes_stream())).into_response())
}

/// What the page does: any `GET`; reads by POST; writes of stores and reviews; and what an operator does with a
/// subscriber.
fn allowed(method: &Method, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let own = path == "/stores" || path.starts_with("/stores/") || path.starts_with("/reviews/");
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let admin = path.strip_prefix("/nudge/v1/").unwrap_or_default();
    let dead_letters = admin.starts_with("dead-letters/");
    let reads = admin.starts_with("keys/") || is_sync_read(path);
    match *method {
        Method::GET => true,
        Method::POST if reads || dead_letters || ["pause", "resume", "resync"].contains(&admin) => {
            true
        }
        Method::DELETE if dead_letters => true,
        _ => own && writes.contains(method),
    }
}

/// Whether this asks an owner for entities, or for its change log.
fn is_sync_read(path: &str) -> bool {
    let rest = path.strip_prefix("/sync/v1/").and_then(|rest| rest.split_once('/'));
    rest.is_some_and(|(_, verb)| ["items", "batch-get", "change-log"].contains(&verb))
}

fn only(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let kept = names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    kept.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };

    use axum::{
        Router,
        routing::{any, post},
    };
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;
    use crate::{client::Service, stub};

    #[test]
    fn reads_are_allowed_anywhere_and_writes_where_people_edit_or_operate() {
        assert!(allowed(&Method::GET, "/nudge/v1/status"));
        assert!(allowed(&Method::PATCH, "/stores/a%2Fb"));
        assert!(allowed(&Method::POST, "/stores"));
        for path in [
            "/stores?x=1",
            "/nudge/v1/keys/store",
            "/nudge/v1/pause",
            "/nudge/v1/resync",
            "/nudge/v1/dead-letters/store/a%2Fb/replay",
            "/sync/v1/store/change-log",
        ] {
            assert!(allowed(&Method::POST, path), "{path}");
        }
        assert!(allowed(&Method::DELETE, "/nudge/v1/dead-letters/store/42"));
        for path in [
            "/nudge/v1/pausex",
            "/nudge/v1/tombstones",
            "/sync/v1/store/never-existed",
            "/sync/v1/store/items/x",
            "/storesx",
            "/x?/stores/",
            "/",
        ] {
            assert!(!allowed(&Method::POST, path), "{path}");
        }
        assert!(!allowed(&Method::DELETE, "/nudge/v1/pause"));
        assert!(!allowed(&Method::PUT, "/sync/v1/store/items"));
        assert!(!allowed(&Method::OPTIONS, "/stores/1"));
    }

    /// What is allowed is what is asked for: no client on the way may read it otherwise.
    #[tokio::test]
    async fn a_path_that_leads_elsewhere_is_refused() {
        let paused = Arc::new(AtomicBool::new(false));
        let pause = {
            let paused = paused.clone();
            async move || paused.store(true, Relaxed)
        };
        let search = Router::new()
            .route("/nudge/v1/pause", post(pause))
            .route("/stores/{id}", post(async |id: Path<String>| id.0));
        let stubs = stub::start([(Service::Search, search)]).await;
        let router = Router::new().route("/api/{service}/{*path}", any(forward));
        let (broker, drawer, stop) = (None, None, CancellationToken::new());
        let console = Console::new(stubs.api.clone(), broker, [].into(), drawer, stop);
        let router = router.layer(Extension(console));
        let ask = async |path: &str| {
            let request = Request::post(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status().as_u16()
        };
        for dots in ["..", "%2e%2e", ".%2E", "%2e.", "x/../..", "./..", "..\\..", "x\\..\\.."] {
            let path = format!("/api/search/stores/{dots}/nudge/v1/pause");
            assert!((400..500).contains(&ask(&path).await), "{path}");
        }
        for path in
            ["/api/search/stores\\..\\nudge/v1/pause", "/api/search/stores/..//nudge/v1/pause"]
        {
            assert!((400..500).contains(&ask(path).await), "{path}");
        }
        assert!(!paused.load(Relaxed));
        for id in
            ["42", "a%2Fb", "%2E%2E%2Fnudge", "a..b", "...", "%25", "%EB%8B%AC", "o'(k)!*?q='x|y'"]
        {
            assert_eq!(ask(&format!("/api/search/stores/{id}")).await, 200, "{id}");
        }
    }
}
