//! One request, with one-line errors for people.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Asked;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Asked {
    /// Its address.
    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The answer, whatever its status.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        request.timeout(ANSWER_TIMEOUT).send().await.map_err(|error| self.silence(&error))
    }

    /// The body of a 200 answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, String> {
        let answer = self.send(request).await?;
        match answer.status().as_u16() {
            200 => self.body(answer).await,
            _ => Err(self.refusal(answer).await),
        }
    }

    /// An answer with a status that should never occur.
    pub(super) async fn refusal(&self, answer: Response) -> String {
        let status = answer.status().as_u16();
        let said = answer.text().await.unwrap_or_default();
        format!("{} answered {status}: {said}", self.name)
    }

    /// The JSON of an answer.
    pub(super) async fn body<T: DeserializeOwned>(&self, answer: Response) -> Result<T, String> {
        let bytes = answer.bytes().await.map_err(|error| self.silence(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(&error))
    }

    /// The items of a page.
    pub(super) fn items<'a>(&self, page: &'a Value) -> Result<&'a [Value], String> {
        page["items"].as_array().map(Vec::as_slice).ok_or_else(|| self.strange(page))
    }

    /// An answer that should never occur.
    pub(super) fn strange(&self, what: &dyn std::fmt::Display) -> String {
        format!("{} sent an unexpected answer: {what}", self.name)
    }

    fn silence(&self, error: &reqwest::Error) -> String {
        let (name, address) = (&self.name, self.address());
        if error.is_connect() {
            format!("nothing answers on {address}, where {name} should be")
        } else if error.is_timeout() {
            format!("{name} on {address} did not answer in time")
        } else {
            let reason = nudge_runtime::problem::chain(error);
            format!("the request to {name} on {address} failed: {reason}")
        }
    }
}
