//! What a write did, and how soon subscribers had it.

use std::time::Duration;

use clap::Args;
use nudge_protocol::WriteToken;
use reqwest::Response;
use serde_json::json;

use super::wait;
use crate::{
    client::{Api, write_token},
    failure::Failure,
    output,
};

/// How long `--wait` waits.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitFlag {
    /// Wait until all subscribers have applied it
    #[arg(long)]
    pub(super) wait: bool,
}

/// Prints what a write did and, with `--wait`, how soon the subscribers had it.
pub(crate) async fn written(
    api: &Api,
    done: &str,
    response: &Response,
    WaitFlag { wait }: WaitFlag,
    json: bool,
) -> Result<(), Failure> {
    let Some(token) = write_token(response) else {
        return Err(Failure::failed("the owner answered without a Nudge-Token"));
    };
    if !json {
        output::line(format!("{done} {} {}, version {}", token.entity, token.id, token.version))?;
        output::line(format!("Nudge-Token: {token}"))?;
    }
    let waited = match wait {
        true => wait::wait_for(api, "all", std::slice::from_ref(&token), WAIT_TIMEOUT).await?,
        false => Vec::new(),
    };
    if json {
        let mut result = json!({
            "result": done,
            "id": token.id,
            "version": token.version,
            "token": token.to_string(),
        });
        if wait {
            result["subscribers"] = json!(waited);
        }
        output::json(&result)?;
    }
    let has_it = waited.iter().filter(|one| !json && one.applied);
    let rows = has_it.map(|one| vec![one.subscriber.to_owned(), how_soon(one, &token, done)]);
    output::table(&rows.collect::<Vec<_>>()).into_iter().try_for_each(output::line)?;
    wait::check(&waited, WAIT_TIMEOUT)
}

/// When a subscriber had a write.
fn how_soon(waited: &wait::Waited, token: &WriteToken, done: &str) -> String {
    // The version of a new write is its commit in unix microseconds, unless that clock has stood
    // behind an earlier version; then this says too little, and never less than nothing.
    let committed = i64::try_from(token.version.get()).unwrap_or(i64::MAX);
    match waited.applied_at {
        Some(at) if done != "unchanged" && waited.version == Some(token.version) => {
            let seconds = (at.unix_micros() - committed) as f64 / 1e6;
            format!("applied it {} after the commit", output::duration(seconds))
        }
        _ => "has it".to_owned(),
    }
}
