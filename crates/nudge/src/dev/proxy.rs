//! The page's way to the services. It talks to the console alone, so the services need not allow
//! other origins; and the console makes sure that nobody else's page uses this way.

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use nudge_runtime::{
    Problem,
    body::{MAX_BODY_BYTES, read_body},
};

use crate::client::{Api, Service};

/// Request headers that are handed on.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::CONTENT_TYPE, header::IF_MATCH, HeaderName::from_static("nudge-token")];
/// Response headers that are handed back.
const RESPONSE_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::ETAG, header::LOCATION, HeaderName::from_static("nudge-token")];

/// Hands `/api/{service}/…` on to that service: any read, and writes to stores and reviews.
pub(super) async fn forward(
    State(api): State<Api>,
    Path((name, _)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(service) = Service::named(&name) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no service {name:?}")));
    };
    let (parts, body) = request.into_parts();
    // Not the decoded path of the route: an id's own `/` must stay encoded.
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let path = target.strip_prefix(&format!("/api/{name}")).unwrap_or("/").to_owned();
    if !allowed(&parts.method, &path) {
        let detail = "the console only reads, and writes stores and reviews";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
    }
    let body = read_body(body, MAX_BODY_BYTES).await?;
    let headers = only(&parts.headers, &REQUEST_HEADERS);
    let request = api.request(parts.method, service, &path).headers(headers).body(body);
    let answer = api
        .send(service, request)
        .await
        .map_err(|failure| Problem::new(StatusCode::BAD_GATEWAY, failure.to_string()))?;
    let (status, headers) = (answer.status(), only(answer.headers(), &RESPONSE_HEADERS));
    Ok((status, headers, Body::from_stream(answer.bytes_stream())).into_response())
}

fn allowed(method: &Method, path: &str) -> bool {
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let own = ["/stores/", "/reviews/"].iter().any(|prefix| path.starts_with(prefix));
    *method == Method::GET || (writes.contains(method) && (own || path == "/stores"))
}

fn only(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let kept = names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    kept.collect()
}

/// Refuses requests that a page from elsewhere makes in the visitor's browser: those with another
/// `Origin`, and those under a name that someone else made to point here.
pub(super) async fn only_from_here(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    let local = host.is_some_and(|host| {
        let authority: Result<Authority, _> = host.parse();
        authority.is_ok_and(|a| ["127.0.0.1", "localhost", "[::1]"].contains(&a.host()))
    });
    let same_origin = match (text(header::ORIGIN), host) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.strip_prefix("http://") == Some(host),
        (Some(_), None) => false,
    };
    match local && same_origin {
        true => next.run(request).await,
        false => {
            let detail = "the console answers only this machine's own pages";
            Problem::new(StatusCode::FORBIDDEN, detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn reads_are_allowed_anywhere_and_writes_where_people_edit() {
        assert!(allowed(&Method::GET, "/nudge/v1/status"));
        assert!(allowed(&Method::PATCH, "/stores/a%2Fb"));
        assert!(allowed(&Method::POST, "/stores"));
        for path in ["/nudge/v1/pause", "/sync/v1/store/batch-get", "/storesx", "/"] {
            assert!(!allowed(&Method::POST, path), "{path}");
        }
        assert!(!allowed(&Method::OPTIONS, "/stores/1"));
    }

    #[tokio::test]
    async fn pages_from_elsewhere_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here")).layer(from_fn(only_from_here));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async |host: Option<&str>, origin: Option<String>| {
            let mut request = client.get(format!("http://{address}/"));
            if let Some(host) = host {
                request = request.header("Host", host);
            }
            if let Some(origin) = origin {
                request = request.header("Origin", origin);
            }
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(ask(None, None).await, 200);
        assert_eq!(ask(Some("localhost:7100"), None).await, 200);
        assert_eq!(ask(None, Some(format!("http://{address}"))).await, 200);
        assert_eq!(ask(Some("rebound.example:7100"), None).await, 403);
        assert_eq!(ask(None, Some("http://evil.example".into())).await, 403);
        assert_eq!(ask(None, Some("null".into())).await, 403);
    }
}
