//! Parameters in paths.

use std::{fmt::Display, str::FromStr};

use axum::{
    extract::{FromRequestParts, Path, path::ErrorKind, rejection::PathRejection},
    http::request::Parts,
};

use crate::problem::Problem;

/// The parameter `id` of a path, or its only one, percent-decoded. An invalid one is a 400 that names it.
///
/// A route may contain a literal word that is also a valid ID, as `POST /stores/import` does next to
/// `/stores/{id}`. It has no parameter; there, the last word of the path is the ID.
///
/// ```
/// use axum::{Router, routing::get};
/// use nudge_runtime::path::PathId;
///
/// async fn half(PathId(number): PathId<u32>) -> String {
///     (number / 2).to_string()
/// }
/// let router: Router = Router::new().route("/halves/{number}", get(half));
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
        let all = parameters(parts).await?;
        let id = match (all.iter().find(|(name, _)| name == "id"), &all[..]) {
            (Some((name, text)), _) | (None, [(name, text)]) => read(name, text),
            (None, []) => read("id", parts.uri.path().rsplit('/').next().unwrap_or_default()),
            (None, _) => Err(another_route("one is named `id`, or there is only one", &all)),
        };
        id.map(Self)
    }
}

/// Both parameters of a path that has two, in its order, percent-decoded. An invalid one is a 400 that names it.
///
/// ```
/// use axum::{Router, routing::get};
/// use nudge_runtime::path::PathIds;
///
/// async fn sum(PathIds(a, b): PathIds<u32, u32>) -> String {
///     (a + b).to_string()
/// }
/// let router: Router = Router::new().route("/sums/{a}/and/{b}", get(sum));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PathIds<A, B>(pub A, pub B);

impl<S, A, B> FromRequestParts<S> for PathIds<A, B>
where
    S: Send + Sync,
    A: FromStr<Err: Display>,
    B: FromStr<Err: Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match &parameters(parts).await?[..] {
            [(first, a), (second, b)] => Ok(Self(read(first, a)?, read(second, b)?)),
            all => Err(another_route("there are two", all)),
        }
    }
}

/// 500, since the route and its handler do not fit.
fn another_route(expected: &str, parameters: &[(String, String)]) -> Problem {
    let names: Vec<_> = parameters.iter().map(|(name, _)| name).collect();
    let error =
        format!("the handler expects of the path's parameters that {expected}, not {names:?}");
    Problem::internal(&std::io::Error::other(error))
}

/// A parameter of the path, percent-decoded; `None` if the route has none of this name.
///
/// # Errors
/// 400 that names it, if it is not a `T`; or that names whichever parameter of the path is not UTF-8.
pub async fn parameter<T>(parts: &mut Parts, name: &str) -> Result<Option<T>, Problem>
where
    T: FromStr<Err: Display>,
{
    let all = parameters(parts).await?;
    let found = all.iter().find(|(parameter, _)| parameter == name);
    found.map(|(_, text)| read(name, text)).transpose()
}

/// All parameters of the path, in its order: their names, and their values percent-decoded.
async fn parameters(parts: &mut Parts) -> Result<Vec<(String, String)>, Problem> {
    let all = Path::<Vec<(String, String)>>::from_request_parts(parts, &()).await;
    all.map(|Path(all)| all).map_err(|error| match &error {
        PathRejection::FailedToDeserializePathParams(why) => match why.kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => {
                Problem::parameter(key, "must be percent-encoded UTF-8")
            }
            _ => Problem::internal(&error),
        },
        _ => Problem::internal(&error),
    })
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
        let both = async |PathIds(a, b): PathIds<u8, String>| format!("{a} {b}");
        let inner = Router::new().route("/words/{id}", get(id)).route("/words/all", get(id));
        let router = Router::new()
            .nest("/in", inner)
            .route("/numbers/{id}/next", get(number))
            .route("/numbers/{id}/words/{word}", get(number))
            .route("/halves/{number}/next", get(number))
            .route("/pairs/{number}/{word}/one", get(number))
            .route("/pairs/{number}/{word}", get(both))
            .route("/pairs/{number}", get(both));
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
    async fn an_only_parameter_is_the_id_whatever_its_name_and_where_it_stands() {
        assert_eq!(ask("/halves/7/next").await, (200, "7".into()));
        let (status, body) = ask("/halves/x/next").await;
        assert!(status == 400 && body.contains(r#""field":"number""#), "{body}");
    }

    #[tokio::test]
    async fn two_parameters_are_in_the_order_of_the_path_and_the_wrong_one_is_named() {
        assert_eq!(ask("/pairs/7/a%2Fb").await, (200, "7 a/b".into()));
        for (path, field) in [("/pairs/x/a", "number"), ("/pairs/7/%FF", "word")] {
            let (status, body) = ask(path).await;
            assert!(status == 400 && body.contains(&format!(r#""field":"{field}""#)), "{body}");
        }
    }

    #[tokio::test]
    async fn a_route_that_does_not_fit_its_handler_is_no_fault_of_the_client() {
        for path in ["/pairs/7", "/pairs/7/a/one"] {
            assert_eq!(ask(path).await.0, 500, "{path}");
        }
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
