//! `Nudge-Token` on a request to the service's own endpoints: the request is answered only once that write
//! is visible here.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use nudge_protocol::{
    WriteToken,
    write_token::{MAX_TOKENS, WRITE_TOKEN_HEADER},
};
use nudge_runtime::Problem;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    http::{admin::not_yet, openapi::waits},
    subscriber::{Shared, Subscriber},
};

/// Longest wait of a request with a token.
pub(crate) const TOKEN_WAIT: Duration = Duration::from_secs(2);

impl Subscriber {
    /// Makes every route of `router` honour `Nudge-Token`: the request, read or write, proceeds once
    /// that version is applied here, or is answered with 504 after two seconds. It may carry several tokens,
    /// separated by commas or in several headers. The OpenAPI document of the routes says so.
    ///
    /// A plain [`Router`](axum::Router) converts to an [`OpenApiRouter`] and back with `into()`.
    pub fn wait_layer(&self, router: OpenApiRouter) -> OpenApiRouter {
        let layer = from_fn_with_state(self.shared.clone(), wait_for_tokens);
        let mut router = router.layer(layer);
        waits(router.get_openapi_mut());
        router
    }
}

async fn wait_for_tokens(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    match wait(&shared, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn wait(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    let tokens = tokens(headers)?;
    let deadline = tokio::time::Instant::now() + TOKEN_WAIT;
    for token in tokens {
        if shared.owned.iter().any(|owned| owned == token.entity.as_str()) {
            // The owner's own writes are visible to it at once.
            continue;
        }
        let Some(followed) = shared.followed(token.entity.as_str()) else {
            return Err(bad(format!("{} does not follow {:?}", shared.service, token.entity)));
        };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if let Err(current) = followed.waiters.wait(&token.id, token.version, left).await? {
            return Err(not_yet(&token, current.map(|applied| applied.version)));
        }
    }
    Ok(())
}

fn tokens(headers: &HeaderMap) -> Result<Vec<WriteToken>, Problem> {
    let mut tokens = Vec::new();
    for value in headers.get_all(WRITE_TOKEN_HEADER) {
        let value = value.to_str().map_err(|_| bad("must be ASCII".into()))?;
        for token in value.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            tokens.push(token.parse().map_err(|error| bad(format!("{error}")))?);
        }
    }
    match tokens.len() > MAX_TOKENS {
        true => Err(bad(format!("must hold at most {MAX_TOKENS} tokens"))),
        false => Ok(tokens),
    }
}

fn bad(detail: String) -> Problem {
    Problem::parameter(WRITE_TOKEN_HEADER, detail)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WRITE_TOKEN_HEADER, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn tokens_come_from_several_headers_and_lists() {
        let found = tokens(&headers(&["store/1@2, store/2@3", "review/a@1"])).unwrap();
        assert_eq!(found.len(), 3);
        assert!(tokens(&HeaderMap::new()).unwrap().is_empty());
    }

    #[test]
    fn a_bad_token_is_a_bad_request_that_names_the_header() {
        for value in ["store", "store/1@x", &"store/1@1,".repeat(17)] {
            let problem = tokens(&headers(&[value])).unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST);
            assert_eq!(problem.errors[0].field, WRITE_TOKEN_HEADER);
        }
    }
}
