//! Calls to other services over HTTP, whichever: within limits of time and size.

use std::time::Duration;

use futures_util::StreamExt;
use nudge_runtime::{
    auth::Credentials,
    problem::chain,
    traces::{TRACEPARENT, current},
};
use reqwest::{Method, RequestBuilder};

use crate::callback::owner_client::{FetchError, FetchErrorKind};

/// Sends requests with the service's own token, if it has one, as part of the caller's trace. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    credentials: Credentials,
}

impl Client {
    /// A client whose calls take at most `timeout`, the body included. It follows no redirect and uses no proxy.
    ///
    /// # Errors
    /// If the system lets no client be created.
    pub fn new(timeout: Duration, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        let http = credentials
            .http()
            .timeout(timeout)
            .connect_timeout(timeout / 4)
            // Shorter than the keep-alive of common servers, so that a connection is not reused just as it closes.
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .no_proxy()
            // A redirect is a configuration error, which following it would hide. It would also get the token.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, credentials: credentials.clone() })
    }

    /// A request, as part of the caller's trace if there is one.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let request = self.credentials.sign(self.http.request(method, url));
        match current() {
            Some(context) => request.header(TRACEPARENT, context.to_string()),
            None => request,
        }
    }
}

/// The body of an answer.
///
/// # Errors
/// [`Refused`](FetchErrorKind::Refused) if it is longer than `max_bytes`; otherwise as in [`transport`].
pub async fn body(response: reqwest::Response, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(transport)?;
        if body.len() + chunk.len() > max_bytes {
            let message = format!("the answer exceeds {max_bytes} bytes");
            return Err(FetchError::new(FetchErrorKind::Refused, message));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What it means that a request or its answer did not arrive.
pub fn transport(error: reqwest::Error) -> FetchError {
    let kind = match error.is_connect() {
        true => FetchErrorKind::Unavailable,
        false => FetchErrorKind::Broken,
    };
    FetchError::new(kind, chain(&error))
}
