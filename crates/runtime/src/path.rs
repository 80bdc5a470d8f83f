//! Parameters in paths.

use std::{fmt::Display, str::FromStr};

use axum::{
    extract::{FromRequestParts, Path, path::ErrorKind, rejection::PathRejection},
    http::request::Parts,
};

use crate::problem::Problem;

/// The parameter `id` of a path, percent-decoded. An invalid one is a 400 that names it.
///
/// A route may contain a literal word that is also a valid ID, as `POST /stores/import` does next to
/// `/stores/{id}`. It has no such parameter; there, the last word of the path is the ID.
///
/// ```
/// use axum::{Router, routing::get};
/// use nudge_runtime::path::PathId;
///
/// async fn half(PathId(number): PathId<u32>) -> String {
///     (number / 2).to_string()
/// }
/// let router: Router = Router::new().route("/halves/{id}", get(half));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PathId<T>(pub T);

impl<S, T> FromRequestParts<S> for PathId<T>
where
    S: Send + Sync,
    T: FromStr<Err: Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = match parameter(parts, "id").await? {
            Some(id) => id,
            None => read("id", parts.uri.path().rsplit('/').next().unwrap_or_default())?,
        };
        Ok(Self(id))
    }
}

/// A parameter of the path, percent-decoded; `None` if the route has none of this name.
///
/// # Errors
/// 400 that names it, if it is not a `T`; or that names whichever parameter of the path is not UTF-8.
pub async fn parameter<T>(parts: &mut Parts, name: &str) -> Result<Option<T>, Problem>
where
    T: FromStr<Err: Display>,
{
    let all = Path::<Vec<(String, String)>>::from_request_parts(parts, &()).await;
    let Path(all) = all.map_err(|error| match &error {
        PathRejection::FailedToDeserializePathParams(why) => match why.kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => {
                Problem::parameter(key, "must be percent-encoded UTF-8")
            }
            _ => Problem::internal(&error),
        },
        _ => Problem::internal(&error),
    })?;
    let found = all.iter().find(|(parameter, _)| parameter == name);
    found.map(|(_, text)| read(name, text)).transpose()
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::parameter(name, error.to_string()))
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::{Body, to_bytes},
        http::Request,
        routing::get,
    };
    use tower::ServiceExt;

    use super::*;

    /// Status and body of the answer to a path.
    async fn ask(path: &str) -> (u16, String) {
        let id = async |PathId(id): PathId<String>| id;
        let number = async |PathId(id): PathId<u8>| id.to_string();
        let inner = Router::new().route("/words/{id}", get(id)).route("/words/all", get(id));
        let router = Router::new()
            .nest("/in", inner)
            .route("/numbers/{id}/next", get(number))
            .route("/numbers/{id}/words/{word}", get(number));
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn an_id_is_decoded_wherever_it_stands() {
        assert_eq!(ask("/in/words/a%2Fb%20%2E").await, (200, "a/b .".into()));
        assert_eq!(ask("/in/words/all").await, (200, "all".into()));
        assert_eq!(ask("/in/words/%61ll").await, (200, "all".into()));
        assert_eq!(ask("/numbers/7/next").await, (200, "7".into()));
    }

    #[tokio::test]
    async fn what_is_no_id_is_a_bad_request_that_names_it() {
        for path in ["/in/words/%FF", "/numbers/%FF/next", "/numbers/x/next", "/numbers/256/next"] {
            let (status, body) = ask(path).await;
            assert_eq!(status, 400, "{path}");
            assert!(body.contains(r#""errors":[{"field":"id""#), "{path}: {body}");
        }
        let (status, body) = ask("/numbers/7/words/%FF").await;
        assert!(status == 400 && body.contains(r#""field":"word""#), "{body}");
    }
}
