//! Errors as RFC 9457 `application/problem+json`.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error response. `title` is the status's reason; `detail` says what to fix; `errors` names each
/// wrong field.
///
/// ```
/// use axum::http::StatusCode;
/// use nudge_runtime::Problem;
/// let problem = Problem::field("rating", "must be from 1 to 5");
/// assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY);
/// assert_eq!(problem.errors[0].field, "rating");
/// ```
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(description = "An error (RFC 9457).")]
pub struct Problem {
    /// The HTTP status.
    #[serde(serialize_with = "status_number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    pub status: StatusCode,
    /// The status in words.
    pub title: String,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
    /// All wrong fields, if that is the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Additional headers of the answer.
    #[serde(skip)]
    pub headers: Vec<(header::HeaderName, HeaderValue)>,
    /// Additional members of the document.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its path in the body, such as `menus[2].price`, or the name of a parameter or header.
    pub field: String,
    /// What it should be.
    pub detail: String,
}

fn status_number<S: serde::Serializer>(status: &StatusCode, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem with a detail.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: Some(detail.into()),
            errors: Vec::new(),
            headers: Vec::new(),
            extra: serde_json::Map::new(),
        }
    }

    /// 422 for one field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// 400 for one parameter of the path or the query, or one header.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::field(name, detail).with_status(StatusCode::BAD_REQUEST)
    }

    /// 422 for several fields. `errors` must not be empty.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let first = errors.first().map(|e| format!("{}: {}", e.field, e.detail));
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, first.unwrap_or_default());
        problem.errors = errors;
        problem
    }

    /// The same problem with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self.title = status.canonical_reason().unwrap_or("Error").to_owned();
        self
    }

    /// The same problem with an additional member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same problem with a header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// 500 for an internal error: logged in full, reported only in general.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the service's log")
    }
}

/// An error with its sources, once each: a source whose text is already contained is left out,
/// since some libraries include it in their own.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = error.source();
    }
    text
}

/// A failed statement: 503 with `Retry-After` if the database is busy, gone or full, else 500.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if crate::database::is_retryable(&error) {
            tracing::warn!(error = %chain(&error), "database unavailable");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database is not available")
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Self::internal(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("strings and numbers always serialize");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

/// For a router's `fallback`.
pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such path")
}

/// For a router's `method_not_allowed_fallback`.
pub async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not support this method")
}
