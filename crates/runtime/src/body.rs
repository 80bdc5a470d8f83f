//! JSON bodies and query strings, with limits, and with errors that name the field.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Largest JSON body of a request, in bytes. The contents are limited in characters and IDs, each of which
/// JSON may write in up to twelve bytes (`\ud83c\udf5c`): the largest valid body fits in its longest form.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Time allowed for such a body to arrive.
pub const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// A request body read as JSON of `T`, at most [`MAX_BODY_BYTES`] long.
///
/// Wrong content type: 415. Too large: 413. Not JSON: 400. JSON of another shape: 422 with the path
/// of the field. For types with `deny_unknown_fields` an unknown field is an error of that kind, too.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        require_content_type(request.headers(), &["application/json"])?;
        let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

/// A query string read as `T`. A wrong or unknown parameter is a 400 that names it.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let detail = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                let field = named_field(&detail).unwrap_or("query").to_owned();
                // The problem names the field itself.
                let why = detail.strip_prefix(&format!("{field}: ")).unwrap_or(&detail);
                Err(Problem::parameter(&*field, why))
            }
        }
    }
}

/// Reads JSON and names the wrong field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let message = inner.to_string();
            let named = named_field(&message).filter(|name| !name.is_empty());
            let field = match (path.as_str(), named) {
                (".", Some(name)) => name.to_owned(),
                // A field with an empty name, of the whole body, cannot be named.
                ("." | "", None) => "body".to_owned(),
                // The path of an unknown or missing field ends at its parent.
                (parent, Some(name)) if !parent.ends_with(name) => format!("{parent}.{name}"),
                (path, _) => path.to_owned(),
            };
            Problem::field(field, message)
        } else {
            not_json(&inner)
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::field("body", format!("not valid JSON: {error}")).with_status(StatusCode::BAD_REQUEST)
}

/// The field that a serde message names: "unknown field `x`, …", "missing field `x`".
fn named_field(message: &str) -> Option<&str> {
    let rest = message
        .strip_prefix("unknown field `")
        .or_else(|| message.strip_prefix("missing field `"))
        .or_else(|| message.strip_prefix("duplicate field `"));
    match rest {
        Some(rest) => rest.split('`').next(),
        // A path error from a query string reads "name: reason".
        None => message.split_once(": ").map(|(name, _)| name).filter(|n| !n.contains(' ')),
    }
}

/// 415 unless the content type is one of `accepted` (parameters such as `charset` are ignored).
pub fn require_content_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media_type = sent.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if accepted.contains(&media_type.as_str()) {
        return Ok(());
    }
    let detail = format!("must be {}, not {sent:?}", accepted.join(" or "));
    Err(Problem::field("Content-Type", detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// The whole body; 413 beyond `limit` bytes, and 408 if it takes longer than [`BODY_DEADLINE`].
pub async fn read_body(body: Body, limit: usize) -> Result<axum::body::Bytes, Problem> {
    let read = tokio::time::timeout(BODY_DEADLINE, to_bytes(body, limit)).await;
    let late = || {
        let detail = format!("must arrive within {} s", BODY_DEADLINE.as_secs());
        Problem::field("body", detail).with_status(StatusCode::REQUEST_TIMEOUT)
    };
    read.map_err(|_| late())?.map_err(|error| {
        let too_large = std::error::Error::source(&error)
            .is_some_and(|source| source.to_string().contains("length limit"));
        if too_large {
            let detail = format!("must be at most {limit} bytes");
            Problem::field("body", detail).with_status(StatusCode::PAYLOAD_TOO_LARGE)
        } else {
            Problem::field("body", "could not be read completely")
                .with_status(StatusCode::BAD_REQUEST)
        }
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "name")]
        _name: String,
        #[serde(default, rename = "menus")]
        _menus: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "price")]
        _price: u64,
    }

    fn field_of(json: &str) -> (u16, String) {
        let problem = parse::<Outer>(json.as_bytes()).unwrap_err();
        (problem.status.as_u16(), problem.errors[0].field.clone())
    }

    #[test]
    fn every_kind_of_wrong_json_names_its_field() {
        assert_eq!(field_of("{"), (400, "body".into()));
        assert_eq!(field_of(r#"{"name":"a"} x"#), (400, "body".into()));
        assert_eq!(field_of("[]"), (422, "body".into()));
        assert_eq!(field_of("{}"), (422, "name".into()));
        assert_eq!(field_of(r#"{"name":1}"#), (422, "name".into()));
        assert_eq!(field_of(r#"{"name":"a","":1}"#), (422, "body".into()));
        assert_eq!(field_of(r#"{"name":"a","colour":1}"#), (422, "colour".into()));
        assert_eq!(
            field_of(r#"{"name":"a","menus":[{"price":-1}]}"#),
            (422, "menus[0].price".into())
        );
        assert_eq!(field_of(r#"{"name":"a","menus":[{"cost":1}]}"#), (422, "menus[0].cost".into()));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parameters {
        #[serde(rename = "limit")]
        _limit: Option<u8>,
    }

    #[tokio::test]
    async fn a_wrong_parameter_is_named_once() {
        for (query, field, detail) in [
            ("limit=x", "limit", "limit: invalid digit found in string"),
            ("limit=", "limit", "limit: cannot parse integer from empty string"),
            ("limit=1&limit=2", "limit", "limit: duplicate field `limit`"),
            ("colour=1", "colour", "colour: unknown field `colour`, expected `limit`"),
        ] {
            let request = Request::get(format!("/?{query}")).body(Body::empty()).unwrap();
            let mut parts = request.into_parts().0;
            let read = Query::<Parameters>::from_request_parts(&mut parts, &()).await;
            let problem = read.unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{query}");
            assert_eq!(problem.errors[0].field, field, "{query}");
            assert_eq!(problem.detail.as_deref(), Some(detail), "{query}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_413() {
        let problem = read_body(Body::from(vec![b'x'; 11]), 10).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(read_body(Body::from(vec![b'x'; 10]), 10).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_to_its_end_is_408() {
        let endless = futures_util::stream::pending::<Result<&[u8], std::io::Error>>();
        let problem = read_body(Body::from_stream(endless), 10).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn a_wrong_content_type_is_415() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            headers
        };
        let json = &["application/json"];
        assert!(require_content_type(&headers("Application/JSON; charset=utf-8"), json).is_ok());
        let problem = require_content_type(&headers("text/plain"), json).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(require_content_type(&HeaderMap::new(), json).is_err());
    }
}
