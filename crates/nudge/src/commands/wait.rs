//! `nudge wait`: until subscribers have applied a write.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use nudge_protocol::{Timestamp, Version, WriteToken};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    client::{Api, Service, refusal},
    failure::Failure,
    output,
};

/// Longest wait that is asked of one request. A longer wait takes several requests, so that no
/// service has to hold one for as long as we like.
const MAX_WAIT_PER_REQUEST: Duration = Duration::from_secs(5);
/// Beyond its waiting time a request may take this long.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Arguments of `nudge wait`.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// The Nudge-Token that a write printed, such as store/42@1767225600000001
    token: WriteToken,
    /// How long to wait, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    timeout_ms: u64,
    /// The subscriber to wait for
    #[arg(long, value_name = "WHO", default_value = "all", value_parser = ["search", "review", "all"])]
    subscriber: String,
}

/// What one subscriber answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Waited {
    /// The subscriber.
    pub(crate) subscriber: &'static str,
    /// Whether it has the version, or a later one.
    pub(crate) applied: bool,
    /// The version that it has.
    pub(crate) version: Option<Version>,
    /// When it was applied.
    pub(crate) applied_at: Option<Timestamp>,
    /// Time from request to answer, in milliseconds.
    pub(crate) waited_ms: f64,
}

/// The subscribers that a `--subscriber` argument names.
pub(crate) fn subscribers(named: &str) -> Vec<Service> {
    let all = Service::SUBSCRIBERS.into_iter();
    all.filter(|service| named == "all" || named == service.name()).collect()
}

/// Runs `nudge wait`.
pub(crate) async fn run(api: Api, args: WaitArgs, json: bool) -> Result<(), Failure> {
    let timeout = Duration::from_millis(args.timeout_ms);
    let waited = wait_for(&api, &subscribers(&args.subscriber), &args.token, timeout).await?;
    if json {
        output::json(&json!({ "token": args.token.to_string(), "subscribers": waited }))?;
    } else {
        for one in &waited {
            let result = match (one.applied, one.version) {
                (true, _) => format!("applied  after {:.1} ms", one.waited_ms),
                (false, Some(version)) => format!("is at version {version}"),
                (false, None) => "does not know it".to_owned(),
            };
            output::line(format!("{:<8} {result}", one.subscriber))?;
        }
    }
    check(&waited, timeout)
}

/// A failure that names who has not applied the version.
pub(crate) fn check(waited: &[Waited], timeout: Duration) -> Result<(), Failure> {
    let late: Vec<_> = waited.iter().filter(|one| !one.applied).map(|one| one.subscriber).collect();
    match late.is_empty() {
        true => Ok(()),
        false => {
            let (who, millis) = (late.join(" and "), timeout.as_millis());
            Err(Failure::TimedOut(format!("not applied by {who} within {millis} ms")))
        }
    }
}

/// Asks all `services` at once, each until it has the version or the time is up.
pub(crate) async fn wait_for(
    api: &Api,
    services: &[Service],
    token: &WriteToken,
    timeout: Duration,
) -> Result<Vec<Waited>, Failure> {
    let waits = services.iter().map(|&service| wait_for_one(api, service, token, timeout));
    join_all(waits).await.into_iter().collect()
}

async fn wait_for_one(
    api: &Api,
    service: Service,
    token: &WriteToken,
    timeout: Duration,
) -> Result<Waited, Failure> {
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
            .long_request(Method::GET, service, "/nudge/v1/wait")
            .timeout(this_time + ANSWER_MARGIN)
            .query(&[
                ("token", token.to_string()),
                ("timeout_ms", this_time.as_millis().to_string()),
            ]);
        let response = api.send(service, request).await?;
        let applied = match response.status() {
            StatusCode::OK => true,
            StatusCode::GATEWAY_TIMEOUT => false,
            _ => return Err(refusal(service, response).await),
        };
        if applied || this_time == left {
            // The version is told in both answers; without it we still know what was asked.
            let body = api.body::<Value>(service, response).await?;
            let answer = serde_json::from_value(body)
                .unwrap_or(Answer { version: applied.then_some(token.version), applied_at: None });
            return Ok(Waited {
                subscriber: service.name(),
                applied,
                version: answer.version,
                applied_at: answer.applied_at,
                waited_ms: began.elapsed().as_micros() as f64 / 1e3,
            });
        }
    }
}

#[cfg(test)]
mod tests;
