//! `nudge conformance`: tries an owner, in any language, against `docs/protocol.md`.
//!
//! | module | what it tries |
//! |---|---|
//! | [`answers`] | what the owner says about what it has: statuses, versions, tombstones |
//! | [`listing`] | its list, page by page |
//! | [`requests`] | requests that it must refuse |
//! | [`digests`] | its digests, recomputed from its list |
//! | [`stream`] | its stream, and what stands in it |
//! | [`writes`] | versions through deletion and concurrent writes |
//! | [`snapshots`] | one snapshot for each answer, and pages while writes go on |
//! | [`encodings`] | IDs of every allowed character |
//! | [`target`] | requests to the owner |
//! | [`report`] | what was found |

mod answers;
mod digests;
mod encodings;
mod listing;
mod report;
mod requests;
mod snapshots;
mod stream;
mod target;
mod writes;

use std::time::Duration;

use clap::Args;
use nudge_protocol::EntityName;
use nudge_runtime::{Broker, auth::Credentials, problem::chain};

use crate::{failure::Failure, output, peers::Also};
use report::{Doubt, Report, Tried, broken};
use serde_json::json;
use target::{Target, Write};

const AFTER_HELP: &str = "\
Without --write-url, the owner is only read. With it, entities are written with PUT and deleted with DELETE; their IDs \
begin with \"conformance\", and their tombstones stay in the owner. Without --nats, nothing on NATS is tried. What is not \
tried is shown as such.

Examples:
  nudge conformance --owner http://127.0.0.1:7101 --entity store
  nudge conformance --owner http://127.0.0.1:7101 --entity store --nats nats://127.0.0.1:7122 \\
      --write-url 'http://127.0.0.1:7101/stores/{id}'

Exit status: 0 no rule is broken, 1 some are, or the owner does not answer.";

/// Longest wait for the NATS server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `nudge conformance`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConformanceArgs {
    /// The owner's base URL, to which `/sync/v1/ENTITY` is added
    #[arg(long, value_name = "URL")]
    owner: String,
    /// The kind of entity
    #[arg(long, value_name = "NAME")]
    entity: EntityName,
    /// The NATS server to which the owner publishes
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Where an entity is written (PUT) and deleted (DELETE); {id} stands for its percent-encoded ID
    #[arg(long, value_name = "URL", value_parser = with_id)]
    write_url: Option<String>,
    /// What is written, JSON; {value} stands for a text that must come back in the entity's state
    #[arg(
        long,
        value_name = "JSON",
        default_value = r#"{"name":"{value}"}"#,
        requires = "write_url"
    )]
    write_body: String,
}

fn with_id(url: &str) -> Result<String, String> {
    let has = url.contains("{id}");
    has.then(|| url.to_owned()).ok_or_else(|| "must contain {id}".to_owned())
}

/// Runs `nudge conformance`.
pub(crate) async fn run(
    args: ConformanceArgs,
    also: &Also,
    credentials: &Credentials,
    json: bool,
) -> Result<(), Failure> {
    let write_url = args.write_url.as_ref().map(|url| url.replace("{id}", "id"));
    let urls = [
        ("--owner", Some(&args.owner)),
        ("--nats", args.nats.as_ref()),
        ("--write-url", write_url.as_ref()),
    ];
    for (flag, url) in urls {
        url.map_or(Ok(()), |url| also.may_reach(flag, url))?;
    }
    let write = args.write_url.clone().map(|url| Write { url, body: args.write_body.clone() });
    let target = Target::new(&args.owner, args.entity.clone(), write, credentials);
    if let Err(Doubt::Broken(how) | Doubt::NotTried(how)) = answers_at_all(&target).await {
        return Err(Failure::failed(format!("{}: {how}", args.owner)));
    }
    let broker = match &args.nats {
        Some(url) => Some(connected(url).await?),
        None => None,
    };
    let report = tried(&target, broker.as_ref()).await;
    match json {
        true => output::json(&report)?,
        false => report.lines().into_iter().try_for_each(output::line)?,
    }
    match report.broken() {
        0 => Ok(()),
        1 => Err(Failure::failed("the owner breaks 1 rule of the protocol")),
        many => Err(Failure::failed(format!("the owner breaks {many} rules of the protocol"))),
    }
}

/// Whether an owner of this entity is there and lets us in. Otherwise each rule would be broken for the same reason.
async fn answers_at_all(target: &Target) -> Tried {
    let items = target.post("items", &json!({"limit": 1})).await?;
    let batch = target.post("batch-get", &json!({"ids": ["conformance"]})).await?;
    match (items.status, batch.status) {
        (401 | 403, status) => {
            broken(format!("batch-get is answered with {status}: give a token with --token-file"))
        }
        (404, 404) => broken(format!(
            "nothing is known of {}: items and batch-get are answered with 404. Is the entity's name, or the URL, another?",
            target.entity
        )),
        _ => Ok(()),
    }
}

/// Everything. The list comes after what is written, so that there is something to list.
async fn tried(target: &Target, broker: Option<&Broker>) -> Report {
    let mut report = Report::default();
    answers::check(target, &mut report).await;
    requests::check(target, &mut report).await;
    writes::check(target, &mut report).await;
    snapshots::check(target, &mut report).await;
    encodings::check(target, &mut report).await;
    listing::check(target, &mut report).await;
    stream::check(target, broker, &mut report).await;
    digests::check(target, broker, &mut report).await;
    report
}

async fn connected(url: &str) -> Result<Broker, Failure> {
    let broker = Broker::connect_as_set(url, "nudge-conformance").await;
    let broker = broker.map_err(|error| Failure::failed(chain(&error)))?;
    // It connects in the background, and goes on trying.
    let answers = tokio::time::timeout(CONNECT_TIMEOUT, broker.client.flush()).await;
    match answers {
        Ok(Ok(())) if broker.is_connected() => Ok(broker),
        _ => Err(Failure::failed(format!("no NATS server answers at {url}"))),
    }
}

#[cfg(test)]
mod tests;
