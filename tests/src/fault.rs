//! What can go wrong between a subscriber and an owner's sync API, on demand.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware::Next,
};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A request with this header gets a true answer in spite of any rule, and is not counted.
pub(crate) const PAST_THE_FAULTS: &str = "test-past-the-faults";

/// What the owner's sync API does instead of answering.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status, and `Retry-After` if given.
    Status(u16, Option<u64>),
    /// Answers 200 with these bytes.
    Body(&'static str),
    /// Sends the first half of the true answer, and cuts the connection.
    Half,
    /// Answers late.
    Delay(Duration),
    /// Prepares its answer, and sends it once the token is cancelled; it may be old by then.
    Until(CancellationToken),
    /// Never answers.
    Hang,
    /// Sends this answer, as a stale replica or a cache would.
    Replay(Vec<u8>),
}

pub(crate) type Rule = Arc<dyn Fn(&[String]) -> Option<Fault> + Send + Sync>;

/// The current fault, and what was observed.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) rule: Option<Rule>,
    /// The IDs of each batch-get so far, newest last.
    pub(crate) asked: Vec<Vec<String>>,
    /// Number of calls so far that ask for no state.
    pub(crate) probes: usize,
    pub(crate) last_answer: Vec<u8>,
}

/// A [`Desk`] that the owner and its routes share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Desk>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.lock()
    }
}

/// Stands in front of the sync API.
pub(crate) async fn interfere(
    State(desk): State<Shared>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if request.headers().contains_key(PAST_THE_FAULTS) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let is_batch = parts.uri.path().ends_with("/batch-get");
    let ids = if is_batch { ids_of(&body) } else { Vec::new() };
    match is_batch {
        true => desk.lock().asked.push(ids.clone()),
        false => desk.lock().probes += 1,
    }
    let rule = desk.lock().rule.clone();
    let fault = rule.and_then(|rule| rule(&ids));
    let answer = async {
        let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 26).await.unwrap_or_default();
        if is_batch && parts.status.is_success() {
            desk.lock().last_answer = body.to_vec();
        }
        (parts, body)
    };
    let whole = |(parts, body): (_, Bytes)| Response::from_parts(parts, Body::from(body));
    match fault {
        None => whole(answer.await),
        Some(Fault::Delay(delay)) => {
            // The answer is prepared first and arrives late; it may be old by then.
            let answer = answer.await;
            tokio::time::sleep(delay).await;
            whole(answer)
        }
        Some(Fault::Until(gate)) => {
            let answer = answer.await;
            gate.cancelled().await;
            whole(answer)
        }
        Some(Fault::Half) => {
            let (parts, body) = answer.await;
            let half = body.slice(..body.len() / 2);
            let cut = std::io::Error::other("cut");
            let stream = futures_util::stream::iter([Ok(half), Err(cut)]);
            Response::from_parts(parts, Body::from_stream(stream))
        }
        Some(fault) => instead(fault).await,
    }
}

async fn instead(fault: Fault) -> Response<Body> {
    let json = |status: u16, body: Vec<u8>| {
        let response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
        response.header(header::CONTENT_TYPE, "application/json").body(Body::from(body))
    };
    match fault {
        Fault::Status(status, None) => json(status, Vec::new()),
        Fault::Status(status, Some(seconds)) => Response::builder()
            .status(status)
            .header(header::RETRY_AFTER, seconds)
            .body(Body::empty()),
        Fault::Body(body) => json(200, body.as_bytes().to_vec()),
        Fault::Replay(body) => json(200, body),
        Fault::Hang | Fault::Half | Fault::Delay(_) | Fault::Until(_) => {
            std::future::pending().await
        }
    }
    .expect("a good response")
}

fn ids_of(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let ids = body["ids"].as_array().cloned().unwrap_or_default();
    ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect()
}
