//! The request to another service for the IDs of stores: one, with a deadline, behind a breaker, within limits.

use std::time::Duration;

use nudge_protocol::{EntityId, Object};
use nudge_runtime::{
    auth::Credentials,
    breaker::{Breaker, Permit},
    problem::{FieldError, chain},
};
use nudge_subscriber_kit::{
    outgoing,
    owner_client::{FetchError, FetchErrorKind, refusal},
};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use utoipa::ToSchema;

use crate::question::{Question, Source};

/// The limits of requests to other services.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for an answer, the connection included.
    pub deadline: Duration,
    /// Largest answer that is read, in bytes: a hundred stores in their longest form.
    pub max_answer_bytes: usize,
    /// Most requests to one service at a time.
    pub max_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(1), max_answer_bytes: 1024 * 1024, max_calls: 64 }
    }
}

/// Most faults of a caller's request that are handed on.
const MAX_FAULTS: usize = 20;
/// Longest text of another service that is handed on, in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// What a source answered: IDs in its order, and where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Chosen {
    /// The IDs of the stores.
    pub ids: Vec<EntityId>,
    /// Where the next page begins; `None` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Why a source gave no IDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It refuses what the caller asked for.
    Refused(Vec<FieldError>),
    /// It is at fault, or not asked at the moment.
    Failed(Reason, String),
}

/// Why a list does not come from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema, async_graphql::Enum)]
#[serde(rename_all = "lowercase")]
#[graphql(name = "FallbackReason")]
#[schema(as = FallbackReason)]
pub enum Reason {
    /// Nobody answers there.
    Unreachable,
    /// It did not answer in time.
    Late,
    /// It failed, or its answer was not one.
    Failed,
    /// It failed lately, and is left alone for a moment.
    Paused,
    /// Too many requests to it are under way, or it says that it is asked too much.
    Busy,
}

/// The sources, each with its own breaker.
#[derive(Debug)]
pub struct Sources {
    limits: Limits,
    http: outgoing::Client,
    all: [(Source, Upstream); 3],
}

#[derive(Debug)]
struct Upstream {
    url: String,
    breaker: Mutex<Breaker>,
    calls: Semaphore,
}

impl Sources {
    /// Sources at these base URLs.
    ///
    /// # Panics
    /// If the system lets no HTTP client be created.
    pub fn new<'a>(
        url: impl Fn(Source) -> &'a str,
        limits: Limits,
        credentials: &Credentials,
    ) -> Self {
        let upstream = |source| {
            let url = url(source).trim_end_matches('/').to_owned();
            let calls = Semaphore::new(limits.max_calls);
            (source, Upstream { url, breaker: Mutex::default(), calls })
        };
        // `ask` keeps the deadline, and knows that it did. The client's own limit lies behind it.
        let http = outgoing::Client::new(limits.deadline * 2, credentials)
            .expect("an HTTP client can be created");
        Self { limits, http, all: Source::ALL.map(upstream) }
    }

    /// Asks the question's source, or says why it cannot be asked.
    ///
    /// # Errors
    /// If there are no IDs: see [`NoAnswer`].
    pub async fn ask(&self, question: &Question) -> Result<Chosen, NoAnswer> {
        let name = question.source.name();
        let found = self.all.iter().find(|(source, _)| *source == question.source);
        let (_, upstream) = found.expect("each source has its place");
        let failed = |reason, detail| Err(NoAnswer::Failed(reason, detail));
        let busy = || format!("{name} is asked too much and wants to be left alone for a moment");
        let Ok(_call) = upstream.calls.try_acquire() else {
            return failed(Reason::Busy, format!("too many requests to {name} are under way"));
        };
        let attempt = match Attempt::begin(&upstream.breaker) {
            Ok(attempt) => attempt,
            Err(reason @ Reason::Busy) => return failed(reason, busy()),
            Err(reason) => {
                return failed(reason, format!("{name} failed lately and is not asked now"));
            }
        };
        let url = format!("{}{}", upstream.url, question.path);
        let request = self.http.request(Method::GET, &url).query(&question.query);
        let exchange = self.exchange(request, question.limit);
        let error = match timeout(self.limits.deadline, exchange).await {
            Ok(Ok(outcome)) => {
                attempt.succeeded();
                return outcome.map_err(NoAnswer::Refused);
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        if let Some(asked) = error.as_ref().and_then(FetchError::asks_to_wait) {
            attempt.was_busy(asked);
            return failed(Reason::Busy, busy());
        }
        if attempt.failed(error.as_ref().and_then(|error| error.retry_after)) {
            let error = error.as_ref().map_or("it is late", |error| &error.message);
            tracing::warn!(source = name, error, "a source of lists fails: falling back");
        }
        // The error itself names addresses: it is for the log.
        match error {
            None => {
                let within = self.limits.deadline.as_millis();
                failed(Reason::Late, format!("{name} did not answer within {within} ms"))
            }
            Some(FetchError { kind: FetchErrorKind::Unavailable, retry_after: None, .. }) => {
                failed(Reason::Unreachable, format!("{name} cannot be reached"))
            }
            Some(_) => failed(Reason::Failed, format!("{name} failed")),
        }
    }

    /// Sends the request and reads the answer: the IDs, or what is wrong with the request.
    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        limit: usize,
    ) -> Result<Result<Chosen, Vec<FieldError>>, FetchError> {
        let response = request.send().await.map_err(outgoing::transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        match status {
            StatusCode::OK => {
                let body = outgoing::body(response, self.limits.max_answer_bytes).await?;
                read(&body, limit).map(Ok)
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                let body = outgoing::body(response, self.limits.max_answer_bytes).await?;
                Ok(Err(faults(&body)))
            }
            _ => {
                let refused = refusal(status, &headers);
                Err(FetchError { message: format!("answered {status}"), ..refused })
            }
        }
    }
}

/// At most `limit` IDs: an answer with more is to another question.
fn read(body: &[u8], limit: usize) -> Result<Chosen, FetchError> {
    let broken = |detail| FetchError::new(FetchErrorKind::Broken, detail);
    let Object(chosen) = serde_json::from_slice::<Object<Chosen>>(body)
        .map_err(|error| broken(format!("its answer cannot be read: {}", chain(&error))))?;
    match chosen.ids.len() > limit {
        true => Err(broken(format!("it answered {} IDs, not {limit}", chosen.ids.len()))),
        false => Ok(chosen),
    }
}

/// What a problem says is wrong with the request.
fn faults(body: &[u8]) -> Vec<FieldError> {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(default)]
        detail: String,
        #[serde(default)]
        errors: Vec<Fault>,
    }
    #[derive(Deserialize)]
    struct Fault {
        field: String,
        detail: String,
    }
    let short = |text: String| text.chars().take(MAX_DETAIL_CHARS).collect::<String>();
    let of = |field, detail| FieldError { field: short(field), detail: short(detail) };
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { errors, .. }) if !errors.is_empty() => {
            errors.into_iter().take(MAX_FAULTS).map(|one| of(one.field, one.detail)).collect()
        }
        Ok(Refusal { detail, .. }) if !detail.is_empty() => vec![of("query".to_owned(), detail)],
        _ => vec![of("query".to_owned(), "the source refuses these parameters".to_owned())],
    }
}

/// A request that the breaker let through, and is told about. A probe whose caller went away proves nothing: then the next
/// request is let through, too.
struct Attempt<'a> {
    breaker: &'a Mutex<Breaker>,
    is_probe: bool,
}

impl<'a> Attempt<'a> {
    /// Why there is none is an error.
    fn begin(breaker: &'a Mutex<Breaker>) -> Result<Self, Reason> {
        let (now, mut state) = (Instant::now().into_std(), breaker.lock());
        match state.permit(now) {
            Permit::Full => Ok(Self { breaker, is_probe: false }),
            Permit::Probe => Ok(Self { breaker, is_probe: true }),
            Permit::Wait(_) if state.is_left_alone(now) => Err(Reason::Busy),
            Permit::Wait(_) => Err(Reason::Paused),
        }
    }

    fn succeeded(mut self) {
        self.is_probe = false;
        self.breaker.lock().success();
    }

    fn was_busy(mut self, retry_after: Duration) {
        self.is_probe = false;
        self.breaker.lock().busy(Instant::now().into_std(), retry_after);
    }

    /// Returns whether this opened the breaker.
    fn failed(mut self, retry_after: Option<Duration>) -> bool {
        self.is_probe = false;
        self.breaker.lock().failure(Instant::now().into_std(), retry_after)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.lock().let_through();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_handed_on_in_part_however_it_looks() {
        let named =
            br#"{"detail":"limit: no","errors":[{"field":"limit","detail":"must be less"}]}"#;
        let fields = |body: &[u8]| {
            let faults = faults(body);
            faults.into_iter().map(|one| (one.field, one.detail)).collect::<Vec<_>>()
        };
        assert_eq!(fields(named), [("limit".to_owned(), "must be less".to_owned())]);
        for body in ["", "[]", "{}", r#"{"errors":7}"#, r#"{"errors":[]}"#] {
            assert_eq!(fields(body.as_bytes())[0].0, "query", "{body}");
        }
        let many = vec![serde_json::json!({"field": "x".repeat(9_000), "detail": "y"}); 100];
        let handed = fields(serde_json::json!({ "errors": many }).to_string().as_bytes());
        assert_eq!((handed.len(), handed[0].0.len()), (MAX_FAULTS, MAX_DETAIL_CHARS));
    }

    #[test]
    fn a_probe_whose_caller_goes_away_does_not_close_the_source_for_ever() {
        let breaker = Mutex::new(Breaker::new());
        for _ in 0..nudge_runtime::breaker::FAILURES_TO_OPEN {
            Attempt::begin(&breaker).expect("it is closed").failed(None);
        }
        assert!(Attempt::begin(&breaker).is_err_and(|why| why == Reason::Paused));
        // As it is once the pause is over.
        let later = std::time::Instant::now() + nudge_runtime::breaker::FIRST_PAUSE;
        assert_eq!(breaker.lock().permit(later), Permit::Probe);
        drop(Attempt { breaker: &breaker, is_probe: true });
        assert_eq!(breaker.lock().permit(later), Permit::Full);
    }
}
