//! Callbacks over HTTP: the requests, the answers, and what a refusal means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use nudge_protocol::{
    EntityId, EntityName, Object,
    digest::{DigestAnswer, DigestRequest, RecentAnswer, RecentRequest, RenewRequest, Renewed},
    sync_api::{
        BatchGetAnswer, BatchGetRequest, ItemsPage, ItemsRequest, LANE_HEADER, Lane,
        SUBSCRIBER_HEADER, WAITED_HEADER, subscriber_name, waited,
    },
};
use nudge_runtime::{auth::Credentials, mutated};
use reqwest::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{
    callback::{
        outgoing::{Client, body, transport},
        owner_client::{Asking, FetchError, FetchErrorKind, Fetching, OwnerClient, Probing},
    },
    settings::Settings,
};

/// An owner's sync API over HTTP.
#[derive(Clone, Debug)]
pub struct HttpOwner {
    http: Client,
    base_url: String,
    max_answer_bytes: usize,
    /// Who asks, for the owner's budget.
    subscriber: Option<String>,
    lane: Lane,
    /// How long its calls have waited at the owner for their turn, in microseconds.
    waited: Arc<AtomicU64>,
}

impl HttpOwner {
    /// A client for the owner at `base_url`, such as `http://127.0.0.1:7101`.
    pub fn new(
        base_url: &str,
        settings: &Settings,
        credentials: &Credentials,
    ) -> Result<Self, reqwest::Error> {
        let http = Client::new(settings.fetch_timeout, credentials)?;
        let base_url = base_url.trim_end_matches('/').to_owned();
        let (max_answer_bytes, lane) = (settings.max_answer_bytes, Lane::Backlog);
        let (subscriber, waited) = (None, Arc::default());
        Ok(Self { http, base_url, max_answer_bytes, subscriber, lane, waited })
    }

    /// Tells the owner in each request which service asks, so that the owner can share its budget between subscribers.
    /// Where tokens are needed, the token says it.
    #[must_use]
    pub fn named(self, service: &str) -> Self {
        let subscriber = Some(subscriber_name(service)).filter(|name| !name.is_empty());
        Self { subscriber, ..self }
    }

    /// Posts `request` and reads the answer, with limits on time and size.
    async fn post<Q: Serialize, T: DeserializeOwned>(
        &self,
        entity: &EntityName,
        call: &'static str,
        request: Q,
    ) -> Result<T, FetchError> {
        let url = format!("{}/sync/v1/{entity}/{call}", self.base_url);
        let mut asking =
            self.http.request(Method::POST, &url).header(LANE_HEADER, self.lane.as_str());
        if let Some(subscriber) = &self.subscriber {
            asking = asking.header(SUBSCRIBER_HEADER, subscriber);
        }
        let began = Instant::now();
        let response = asking.json(&request).send().await.map_err(transport)?;
        let said = said_to_wait(response.headers()).unwrap_or_default().min(began.elapsed());
        self.waited.fetch_add(u64::try_from(said.as_micros()).unwrap_or(0), Relaxed);
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refusal(status, response.headers()));
        }
        read_answer(&body(response, self.max_answer_bytes).await?)
    }
}

/// Reads the body of an owner's answer.
pub fn read_answer<T: DeserializeOwned>(body: &[u8]) -> Result<T, FetchError> {
    let answer = serde_json::from_slice::<Object<T>>(body).map_err(|error| {
        let message = format!("the answer cannot be read: {error}");
        FetchError::new(FetchErrorKind::Broken, message)
    })?;
    Ok(answer.0)
}

impl OwnerClient for HttpOwner {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        let request = BatchGetRequest::new(ids, fields);
        Box::pin(async move {
            let answer: BatchGetAnswer = self.post(entity, "batch-get", request).await?;
            Ok(answer.items)
        })
    }

    fn address(&self) -> String {
        self.base_url.clone()
    }

    fn in_lane(&self, lane: Lane) -> Option<Arc<dyn OwnerClient>> {
        Some(Arc::new(Self { lane, waited: Arc::default(), ..self.clone() }))
    }

    fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Relaxed))
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        let request = ItemsRequest { after: None, limit: Some(1) };
        Box::pin(async move { self.post(entity, "items", request).await.map(|_: ItemsPage| ()) })
    }

    fn digest<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a DigestRequest,
    ) -> Asking<'a, DigestAnswer> {
        Box::pin(self.post(entity, "digest", request))
    }

    fn recent<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RecentRequest,
    ) -> Asking<'a, RecentAnswer> {
        Box::pin(self.post(entity, "recent", request))
    }

    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> Asking<'a, ItemsPage> {
        Box::pin(self.post(entity, "items", request))
    }

    fn renew<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RenewRequest,
    ) -> Asking<'a, Renewed> {
        Box::pin(self.post(entity, "renew", request))
    }
}

/// What an answer other than `200` means.
pub fn refusal(status: StatusCode, headers: &header::HeaderMap) -> FetchError {
    let retry_after = retry_after(headers, SystemTime::now());
    FetchError {
        kind: kind_of(status, retry_after.is_some()),
        message: format!("the owner answered {status}"),
        retry_after,
        gives_turns: said_to_wait(headers).is_some(),
    }
}

/// How long the owner let a call wait for its turn, if it gives turns.
fn said_to_wait(headers: &header::HeaderMap) -> Option<Duration> {
    let said = headers.get_all(WAITED_HEADER).into_iter();
    said.filter_map(|value| waited(value.to_str().ok()?)).max()
}

/// How long the owner asks to be left alone: `Retry-After` is a number of seconds or a date. A date is compared with
/// the owner's own `Date`, so that different clocks do no harm. The breaker limits the result.
fn retry_after(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let asked = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (date(asked)?, text(header::DATE).and_then(date).unwrap_or(now));
    // It may have passed already.
    Some(until.duration_since(now).unwrap_or_default())
}

/// `says_when`: the answer says when to try again.
fn kind_of(status: StatusCode, says_when: bool) -> FetchErrorKind {
    match status.as_u16() {
        // Without `Retry-After`, it may come from a proxy, or from a database that gives up on one key.
        429 if says_when => {
            mutated!(BusyIsARefusal: FetchErrorKind::Busy => FetchErrorKind::Refused)
        }
        503 if says_when => FetchErrorKind::Unavailable,
        401 | 403 | 404 | 405 | 407 | 410 | 501 | 300..=399 => FetchErrorKind::Misconfigured,
        // These judge the request itself, and would do so again.
        400 | 413 | 414 | 422 | 431 => FetchErrorKind::Refused,
        _ => FetchErrorKind::Broken,
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::breaker;

    use super::*;

    #[test]
    fn no_status_is_taken_for_a_delete() {
        for (status, kind) in [
            (301, FetchErrorKind::Misconfigured),
            (400, FetchErrorKind::Refused),
            (401, FetchErrorKind::Misconfigured),
            (403, FetchErrorKind::Misconfigured),
            (404, FetchErrorKind::Misconfigured),
            (409, FetchErrorKind::Broken),
            (410, FetchErrorKind::Misconfigured),
            (413, FetchErrorKind::Refused),
            (422, FetchErrorKind::Refused),
            (408, FetchErrorKind::Broken),
            (429, FetchErrorKind::Broken),
            (500, FetchErrorKind::Broken),
            (501, FetchErrorKind::Misconfigured),
            (502, FetchErrorKind::Broken),
            (503, FetchErrorKind::Broken),
            (504, FetchErrorKind::Broken),
        ] {
            assert_eq!(kind_of(StatusCode::from_u16(status).unwrap(), false), kind, "{status}");
        }
    }

    #[test]
    fn only_an_owner_that_says_when_to_come_again_speaks_for_itself() {
        let kind = |status, retry_after: &[&'static str]| {
            let mut headers = header::HeaderMap::new();
            for value in retry_after {
                headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            }
            refusal(StatusCode::from_u16(status).unwrap(), &headers).kind
        };
        for (status, says) in [(429, FetchErrorKind::Busy), (503, FetchErrorKind::Unavailable)] {
            assert_eq!(kind(status, &["1"]), says);
            assert_eq!(kind(status, &["soon"]), FetchErrorKind::Broken);
            assert_eq!(kind(status, &[]), FetchErrorKind::Broken);
        }
        for status in [408, 500, 502, 504] {
            assert_eq!(kind(status, &["1"]), FetchErrorKind::Broken);
        }
    }

    #[test]
    fn an_owner_that_gives_turns_says_so_when_it_refuses_one() {
        let refused = |timing: &'static str| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, "1".parse().unwrap());
            headers.insert(WAITED_HEADER, timing.parse().unwrap());
            refusal(StatusCode::TOO_MANY_REQUESTS, &headers).gives_turns
        };
        assert!(refused("turn;dur=0.0") && refused("cache;desc=miss, turn;dur=2000.0"));
        assert!(!refused("db;dur=53"), "a proxy counts each call");
        assert!(!refusal(StatusCode::TOO_MANY_REQUESTS, &header::HeaderMap::new()).gives_turns);
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let wait = |retry_after: &'static str, date: Option<&'static str>| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, retry_after.parse().unwrap());
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            // Sun, 06 Nov 1994 08:49:37 GMT.
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
            super::retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7", None), Some(7));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:57 GMT", None), Some(20));
        assert_eq!(wait("Sun Nov  6 08:49:57 1994", None), Some(20), "as old servers write it");
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:36 GMT", None), Some(0), "it has passed");
        // The owner's clock is ten minutes fast.
        let date = Some("Sun, 06 Nov 1994 08:59:37 GMT");
        assert_eq!(wait("Sun, 06 Nov 1994 08:59:40 GMT", date), Some(3));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:57 GMT", Some("today")), Some(20));
        for nonsense in ["", "-1", "soon", "1.5", "18446744073709551616", "Sun, 99 Nov 1994"] {
            assert_eq!(wait(nonsense, None), None, "{nonsense}");
        }
        // However far off, the breaker waits no longer than it ever does.
        for far in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            let (now, asked) =
                (std::time::Instant::now(), wait(far, None).map(Duration::from_secs));
            let mut breaker = breaker::Breaker::new();
            breaker.failure(now, asked);
            let permit = breaker.permit(now + breaker::MAX_RETRY_AFTER);
            assert_eq!(permit, breaker::Permit::Full, "{far}");
        }
    }
}
