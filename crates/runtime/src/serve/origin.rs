//! Checks where requests come from. There is no authentication, and every web page in a browser may send requests to this
//! machine: by the name of its own server, which then resolves here (DNS rebinding), or as requests that browsers
//! send without asking first (a form). Both can be recognized by their headers.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::Problem;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses requests that do not name this machine, and those made by foreign
/// web pages.
pub(super) async fn only_from_here(request: Request, next: Next) -> Response {
    let named = request.uri().authority();
    let asked = match checked(request.method(), request.headers(), named) {
        Ok(()) => return next.run(request).await,
        Err(why) => why,
    };
    Problem::new(StatusCode::FORBIDDEN, asked).into_response()
}

fn checked(
    method: &Method,
    headers: &HeaderMap,
    named: Option<&Authority>,
) -> Result<(), &'static str> {
    let host = only(headers, &header::HOST).ok_or("there must be exactly one Host header")?;
    let authority: Option<Authority> = host.parse().ok();
    if !authority.iter().chain(named).all(is_local) || authority.is_none() {
        return Err("the Host header must name this machine: localhost or a loopback address");
    }
    let same_origin = match headers.contains_key(header::ORIGIN) {
        true => {
            let origin = only(headers, &header::ORIGIN).and_then(|one| one.strip_prefix("http://"));
            origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
        }
        // For anything but plain reads, browsers send one of these headers.
        false => {
            let site = headers.get(FETCH_SITE).map(|site| site.as_bytes());
            method.is_safe() || site.is_none_or(|site| matches!(site, b"same-origin" | b"none"))
        }
    };
    same_origin.then_some(()).ok_or("requests from other sites are refused")
}

/// The value of a header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn is_local(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let loopback = bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let user = authority.as_str().contains('@');
    !user && (loopback || host.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(method: Method, headers: &[(&str, &str)]) -> bool {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(header) {
            map.append(name, value);
        }
        checked(&method, &map, None).is_ok()
    }

    #[test]
    fn this_machine_has_few_names() {
        for host in ["127.0.0.1:7101", "localhost:7101", "LocalHost", "[::1]:7101", "127.0.0.2"] {
            assert!(passes(Method::POST, &[("host", host)]), "{host}");
        }
        for host in [
            "rebound.example:7101",
            "localhost.rebound.example",
            "127.0.0.1.rebound.example",
            "127.0.0.1@rebound.example",
            "rebound.example@127.0.0.1",
            "10.0.0.1:7101",
            "0.0.0.0:7101",
            "[::ffff:10.0.0.1]",
            "",
            "localhost rebound.example",
        ] {
            assert!(!passes(Method::GET, &[("host", host)]), "{host}");
        }
        assert!(!passes(Method::GET, &[]));
        assert!(!passes(Method::GET, &[("host", "localhost"), ("host", "rebound.example")]));
        let elsewhere: Authority = "rebound.example".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "localhost".parse().unwrap());
        assert!(checked(&Method::GET, &headers, Some(&elsewhere)).is_err());
    }

    #[test]
    fn a_page_is_answered_by_whom_it_came_from() {
        let host = ("host", "127.0.0.1:7100");
        assert!(passes(Method::POST, &[host, ("origin", "http://127.0.0.1:7100")]));
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:8000",
            "http://localhost:7100",
            "https://127.0.0.1:7100",
            "",
        ] {
            for method in [Method::GET, Method::POST] {
                assert!(!passes(method, &[host, ("origin", origin)]), "{origin}");
            }
        }
        // A link from elsewhere is followed; a form from elsewhere is not.
        assert!(passes(Method::GET, &[host, ("sec-fetch-site", "cross-site")]));
        for site in ["cross-site", "same-site"] {
            assert!(!passes(Method::POST, &[host, ("sec-fetch-site", site)]), "{site}");
        }
        assert!(passes(Method::POST, &[host, ("sec-fetch-site", "none")]));
    }
}
