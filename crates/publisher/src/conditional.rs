//! Versions in headers: conditional requests (RFC 9110, section 13), and the headers of a write's answer. For
//! every owner's own routes.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{Version, WriteToken, write_token::WRITE_TOKEN_HEADER};
use serde::Serialize;
use utoipa::IntoParams;

/// The entity tag of a version: `"17"`.
pub fn etag(version: Version) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// The headers of the answer to a write: `ETag` with the current version, and `Nudge-Token`,
/// which identifies the write to readers.
pub fn write_headers(token: &WriteToken) -> [(HeaderName, HeaderValue); 2] {
    let name = HeaderName::try_from(WRITE_TOKEN_HEADER).expect("the contract's header has a name");
    let value = HeaderValue::try_from(token.to_string()).expect("a token is a header value");
    [(header::ETAG, etag(token.version)), (name, value)]
}

/// The answer to a read of an entity: its state with its version as `ETag`, or 304 without the state if the request's
/// `If-None-Match` names this version.
pub fn read_answer(headers: &HeaderMap, version: Version, state: impl Serialize) -> Response {
    let tag = [(header::ETAG, etag(version))];
    match if_none_match(headers).is_some_and(|known| known.matches(Some(version))) {
        true => (StatusCode::NOT_MODIFIED, tag).into_response(),
        false => (tag, Json(state)).into_response(),
    }
}

/// The condition of a write, for the OpenAPI document of a route that reads it with [`if_match`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the document; the code reads the headers")]
pub struct IfMatch {
    /// Versions, as in `ETag`, one of which must be the current one.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
}

/// The condition of a read, for the OpenAPI document of a route that reads it with [`if_none_match`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only for the document; the code reads the headers")]
pub struct IfNoneMatch {
    /// Versions that the caller has, as in `ETag`: answered with 304 while one of them is current.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// Versions that a condition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any version, if the entity exists.
    Any,
    /// One of these. Empty if the request named none that can match.
    OneOf(Vec<Version>),
}

impl Expected {
    /// Whether the condition matches an entity in this version, or a missing one.
    pub fn matches(&self, current: Option<Version>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::OneOf(versions), Some(current)) => versions.contains(&current),
        }
    }
}

/// `If-Match` compares strongly: a weak tag never matches.
pub fn if_match(headers: &HeaderMap) -> Option<Expected> {
    expected(headers, header::IF_MATCH, false)
}

/// `If-None-Match` compares weakly: a weak tag matches as well.
pub fn if_none_match(headers: &HeaderMap) -> Option<Expected> {
    expected(headers, header::IF_NONE_MATCH, true)
}

/// The versions that a header names. A tag that this service never sent names none, and neither does
/// a malformed one: a condition that cannot be understood must not let a write through.
fn expected(headers: &HeaderMap, name: HeaderName, weak: bool) -> Option<Expected> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let mut versions = Vec::new();
    for value in values {
        let Ok(value) = value.to_str() else { continue };
        if value.trim() == "*" {
            return Some(Expected::Any);
        }
        // This service's tags consist of digits only, so a comma inside a foreign tag does no harm.
        for tag in value.split(',').map(str::trim) {
            let tag = match tag.strip_prefix("W/") {
                Some(tag) if weak => tag,
                Some(_) => continue,
                None => tag,
            };
            let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = digits.and_then(|digits| digits.parse::<Version>().ok());
            versions.extend(version.filter(|v| digits.is_some_and(|d| d == v.to_string())));
        }
    }
    Some(Expected::OneOf(versions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> (Option<Expected>, Option<Expected>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, value.parse().unwrap());
            headers.append(header::IF_NONE_MATCH, value.parse().unwrap());
        }
        (if_match(&headers), if_none_match(&headers))
    }

    fn one_of(versions: &[u64]) -> Option<Expected> {
        let versions = versions.iter().map(|n| Version::new(*n).unwrap());
        Some(Expected::OneOf(versions.collect()))
    }

    #[test]
    fn tags_are_read_from_lists_and_repeated_headers() {
        let (strong, weak) = parse(&["\"1\", W/\"2\"", "\"x\",\"3\""]);
        assert_eq!(strong, one_of(&[1, 3]));
        assert_eq!(weak, one_of(&[1, 2, 3]));
        assert_eq!(parse(&["*"]).0, Some(Expected::Any));
        assert_eq!(parse(&[]), (None, None));
    }

    #[test]
    fn what_is_not_a_tag_of_ours_matches_nothing_rather_than_everything() {
        for value in [
            "", "1", "\"1", "'1'", "\"a,\"", "nonsense", "\"\"", "\"-1\"", "\"01\"", "w/\"1\"",
            "\"*\"",
        ] {
            assert_eq!(parse(&[value]).0, one_of(&[]), "{value}");
        }
    }

    #[test]
    fn a_write_tells_its_version_and_its_token() {
        let token: WriteToken = "store/a%2Fb@17".parse().unwrap();
        let [(etag, version), (name, value)] = write_headers(&token);
        assert_eq!((etag, version.to_str().unwrap()), (header::ETAG, "\"17\""));
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("nudge-token", "store/a%2Fb@17"));
    }

    #[test]
    fn a_version_matches_its_own_tag_and_no_other() {
        let version = Version::new(17).unwrap();
        let expected = parse(&[etag(version).to_str().unwrap()]).0.unwrap();
        assert!(expected.matches(Some(version)));
        assert!(!expected.matches(Version::new(170).ok()) && !expected.matches(None));
    }
}
