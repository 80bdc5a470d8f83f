//! `nudge wait`: until subscribers have applied writes.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use nudge_protocol::{EntityName, Timestamp, Version, WriteToken, write_token::MAX_TOKENS};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    client::{Api, refusal},
    failure::Failure,
    output,
    peers::Peer,
    roles,
};

/// Longest wait that is asked of one request. A longer wait takes several requests, so that no
/// service has to hold one for as long as we like.
const MAX_WAIT_PER_REQUEST: Duration = Duration::from_secs(5);
/// Beyond its waiting time a request may take this long.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Arguments of `nudge wait`.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// Each Nudge-Token that a write printed, such as store/42@1767225600000001; at most 16, with one deadline for all
    #[arg(value_name = "TOKEN", required = true, value_delimiter = ',')]
    tokens: Vec<WriteToken>,
    /// How long to wait, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    timeout_ms: u64,
    /// The subscriber to wait for
    #[arg(long, value_name = "WHO", default_value = "all")]
    subscriber: String,
}

/// What one subscriber answered about one write.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Waited {
    /// The subscriber.
    pub(crate) subscriber: &'static str,
    /// The write.
    #[serde(serialize_with = "as_text")]
    pub(crate) token: WriteToken,
    /// Whether it has the version, or a later one.
    pub(crate) applied: bool,
    /// The version that it has.
    pub(crate) version: Option<Version>,
    /// When it was applied.
    pub(crate) applied_at: Option<Timestamp>,
    /// Time from request to answer, in milliseconds.
    pub(crate) waited_ms: f64,
}

fn as_text<S: serde::Serializer>(token: &WriteToken, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(token)
}

/// Runs `nudge wait`.
pub(crate) async fn run(api: Api, args: WaitArgs, json: bool) -> Result<(), Failure> {
    let WaitArgs { tokens, timeout_ms, subscriber } = args;
    if tokens.len() > MAX_TOKENS {
        let many = tokens.len();
        return Err(Failure::Usage(format!("{many} tokens are more than {MAX_TOKENS}")));
    }
    let timeout = Duration::from_millis(timeout_ms);
    let waited = wait_for(&api, &subscriber, &tokens, timeout).await?;
    if json {
        let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
        output::json(&json!({ "token": tokens.join(","), "subscribers": waited }))?;
    } else {
        to_lines(&waited, tokens.len() > 1).into_iter().try_for_each(output::line)?;
    }
    check(&waited, timeout)
}

fn to_lines(waited: &[Waited], several: bool) -> Vec<String> {
    let rows = waited.iter().map(|one| {
        let result = match (one.applied, one.version) {
            (true, _) => format!("applied  after {:.1} ms", one.waited_ms),
            (false, Some(version)) => format!("is at version {version}"),
            (false, None) => "does not know it".to_owned(),
        };
        let token = several.then(|| one.token.to_string());
        token.into_iter().chain([one.subscriber.to_owned(), result]).collect()
    });
    output::table(&rows.collect::<Vec<_>>())
}

/// A failure that names who has not applied which version.
pub(crate) fn check(waited: &[Waited], timeout: Duration) -> Result<(), Failure> {
    let late = waited.iter().filter(|one| !one.applied);
    let several = waited.iter().any(|one| one.token != waited[0].token);
    let late: Vec<_> = late
        .map(|one| match several {
            true => format!("{} ({})", one.subscriber, one.token),
            false => one.subscriber.to_owned(),
        })
        .collect();
    match late.is_empty() {
        true => Ok(()),
        false => {
            let (who, millis) = (late.join(" and "), timeout.as_millis());
            Err(Failure::TimedOut(format!("not applied by {who} within {millis} ms")))
        }
    }
}

/// Asks all subscribers of this name that follow the entities at once, each until it has the version or the time is up.
pub(crate) async fn wait_for(
    api: &Api,
    who: &str,
    tokens: &[WriteToken],
    timeout: Duration,
) -> Result<Vec<Waited>, Failure> {
    let peers = roles::named(api, who)?;
    let pairs = tokens.iter().flat_map(|token| peers.iter().map(move |peer| (token, *peer)));
    let waits = pairs.map(|(token, peer)| wait_for_one(api, peer, token, timeout));
    let waited: Result<Vec<_>, _> = join_all(waits).await.into_iter().collect();
    let waited: Vec<Waited> = waited?.into_iter().flatten().collect();
    let is_followed = |entity: &EntityName| waited.iter().any(|one| one.token.entity == *entity);
    match tokens.iter().find(|token| !is_followed(&token.entity)) {
        None => Ok(waited),
        Some(WriteToken { entity, .. }) => {
            let names = roles::list(&peers);
            Err(Failure::failed(format!("{entity} is not followed by {names}")))
        }
    }
}

/// `None` if it does not follow the entity.
async fn wait_for_one(
    api: &Api,
    peer: Peer,
    token: &WriteToken,
    timeout: Duration,
) -> Result<Option<Waited>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        version: Option<Version>,
        applied_at: Option<Timestamp>,
    }
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        let this_time = left.min(MAX_WAIT_PER_REQUEST);
        let request = api
            .long_request(Method::GET, peer, "/nudge/v1/wait")
            .timeout(this_time + ANSWER_MARGIN)
            .query(&[
                ("token", token.to_string()),
                ("timeout_ms", this_time.as_millis().to_string()),
            ]);
        let response = match api.send(peer, request).await {
            Ok(response) => response,
            Err(_) if roles::follows_nothing(peer) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let applied = match response.status() {
            StatusCode::OK => true,
            StatusCode::GATEWAY_TIMEOUT => false,
            // It follows something else, or nothing.
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(refusal(peer, response).await),
        };
        if applied || this_time == left {
            // The version is told in both answers; without it we still know what was asked.
            let body = api.body::<Value>(peer, response).await?;
            let answer = serde_json::from_value(body)
                .unwrap_or(Answer { version: applied.then_some(token.version), applied_at: None });
            return Ok(Some(Waited {
                subscriber: peer.name(),
                token: token.clone(),
                applied,
                version: answer.version,
                applied_at: answer.applied_at,
                waited_ms: began.elapsed().as_micros() as f64 / 1e3,
            }));
        }
    }
}

#[cfg(test)]
mod tests;
