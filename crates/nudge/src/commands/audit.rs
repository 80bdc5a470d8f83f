//! `nudge audit`: how consistent subscribers have been with the owners of what they follow, and certificates of it.

mod nines;

use std::time::Duration;

use clap::Args;
use console::style;
use futures_util::future::join_all;
use nudge_protocol::{
    Timestamp,
    admin::{AuditStatus, ByAge, Certificates, EntityStatus, ResyncRequest, ResyncStatus, Status},
};
use nudge_runtime::clock;
use reqwest::Method;
use serde_json::json;

use super::resync::{Asked, compare, described};
use crate::{
    client::Api,
    failure::Failure,
    output::{self, duration},
    peers::Peer,
    roles::{self, Subscriber},
};
use nines::within;

/// How many comparisons are made until one finds nothing to repair.
const MAX_COMPARISONS: usize = 3;

/// Arguments of `nudge audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// The subscriber
    #[arg(long, value_name = "WHO", default_value = "all")]
    subscriber: String,
    /// Compare everything now and print a certificate for each followed entity, as one line of JSON:
    /// scripts/check-certificate recomputes it from the two databases
    #[arg(long)]
    certificate: bool,
    /// How long to wait for the comparison, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Runs `nudge audit`.
pub(crate) async fn run(api: Api, args: AuditArgs, json: bool) -> Result<(), Failure> {
    let subscribers = roles::subscribers(&api, &args.subscriber).await?;
    let timeout = Duration::from_secs(args.timeout);
    let one = async |Subscriber { peer, status }| match args.certificate {
        true => certificates(&api, peer, status?, timeout).await,
        false => Ok((record(peer, status?, json), None)),
    };
    let mut failure = None;
    for lines in join_all(subscribers.into_iter().map(one)).await {
        match lines {
            Ok((lines, failed)) => {
                lines.into_iter().try_for_each(output::line)?;
                failure = failure.or(failed);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// What a subscriber prints, and what it could not.
type Printed = (Vec<String>, Option<Failure>);

/// Compares everything that a subscriber follows, and certifies it.
async fn certificates(
    api: &Api,
    peer: Peer,
    status: Status,
    timeout: Duration,
) -> Result<Printed, Failure> {
    for entity in status.entities {
        for _ in 0..MAX_COMPARISONS {
            let request =
                ResyncRequest { entity: entity.entity.clone(), full: false, allow_removals: false };
            let found = compare(api, peer, Asked { request, timeout }).await?;
            if found.sweep.differences.sum() == 0 {
                break;
            }
        }
    }
    let request = api.request(Method::GET, peer, "/nudge/v1/certificates");
    let Certificates { certificates } = api.json(peer, request).await?;
    let (mut lines, mut failure) = (Vec::new(), None);
    for certified in certificates {
        match (certified.certificate, certified.why_not) {
            (Some(certificate), _) => lines.push(json!(certificate).to_string()),
            (None, why_not) => {
                let why_not = why_not.unwrap_or_else(|| "no certificate".to_owned());
                let (name, entity) = (peer.name(), certified.entity);
                failure = Some(Failure::failed(format!("{name}, {entity}: {why_not}")));
            }
        }
    }
    Ok((lines, failure))
}

/// What has been found so far.
fn record(peer: Peer, status: Status, json: bool) -> Vec<String> {
    let (mut lines, now) = (Vec::new(), clock::now());
    for entity in status.entities {
        if json {
            let (name, entity, resync) = (peer.name(), entity.entity, entity.resync);
            lines.push(json!({"subscriber": name, "entity": entity, "resync": resync}).to_string());
        } else {
            lines.extend(said(peer.name(), &entity, now));
        }
    }
    lines
}

/// What has been found of one followed entity.
fn said(subscriber: &str, status: &EntityStatus, now: Timestamp) -> Vec<String> {
    let EntityStatus { entity, applied, resync, .. } = status;
    let title = style(format!("{subscriber}: {applied} × {entity}")).bold();
    let mut lines = vec![title.to_string()];
    let Some(resync) = resync else {
        lines.push("  not compared with the owner: that is switched off".to_owned());
        return lines;
    };
    lines.push(format!("  versions: {}", versions(resync, now)));
    lines.push(format!("  contents: {}", contents(resync, now)));
    lines.extend(consistency(&resync.audit, now).into_iter().map(|line| format!("  {line}")));
    if let Some(why) = &resync.waits_for {
        lines.push(format!("  {}", style(format!("waits: {why}")).yellow()));
    }
    lines
}

fn versions(resync: &ResyncStatus, now: Timestamp) -> String {
    let Some(last) = &resync.last else { return "never all compared yet".to_owned() };
    let found = match last.differences.sum() {
        0 => style("all equal".to_owned()).green(),
        _ => style(described(&last.differences)).yellow(),
    };
    let compared = compared(last.compared, last.began_at, last.ended_at, now);
    format!("{compared}: {found}")
}

fn contents(resync: &ResyncStatus, now: Timestamp) -> String {
    let waits = resync.contents.waits_for.as_ref();
    let waits =
        waits.map_or(String::new(), |why| style(format!("; waits: {why}")).yellow().to_string());
    let Some(last) = &resync.contents.last else {
        return match &resync.contents.current {
            Some(pass) => {
                format!("{} compared so far, {} edited{waits}", pass.compared, pass.altered)
            }
            None => format!("not compared, or not yet{waits}"),
        };
    };
    let found = match last.altered + last.strays {
        0 => style("as the owner says".to_owned()).green(),
        edited => style(format!("{edited} edited by somebody, written again")).yellow(),
    };
    let left_out = match last.left_out {
        0 => String::new(),
        many => format!(", {many} left out: in flight, or dead letters"),
    };
    let compared = compared(last.compared, last.began_at, last.ended_at, now);
    format!("{compared}: {found}{left_out}{waits}")
}

/// Such as `7264 compared in 5.0 s, 2 min 03 s ago`.
fn compared(entities: u64, began: Timestamp, ended: Option<Timestamp>, now: Timestamp) -> String {
    let ended = ended.unwrap_or(began);
    let took = duration(ended.seconds_since(began));
    format!("{entities} compared in {took}, {} ago", duration(now.seconds_since(ended)))
}

/// How consistent it has been today and yesterday, in words.
pub(crate) fn consistency(audit: &AuditStatus, now: Timestamp) -> Vec<String> {
    let days = || audit.last.iter().chain(&audit.current);
    let compared: u64 = days().map(|day| day.compared).sum();
    let Some(since) = days().map(|day| day.began_at).min().filter(|_| compared > 0) else {
        return Vec::new();
    };
    let sum = |age: fn(&ByAge) -> u64| -> u64 { days().map(|day| age(&day.differed)).sum() };
    let ages = [
        ("1 s", sum(|ages| ages.one_second)),
        ("10 s", sum(|ages| ages.ten_seconds)),
        ("1 min", sum(|ages| ages.one_minute)),
        ("5 min", sum(|ages| ages.five_minutes)),
    ];
    let hours = duration(now.seconds_since(since));
    let mut lines = vec![format!("in {hours}, {compared} comparisons of one entity:")];
    lines.extend(ages.iter().map(|(age, differed)| within(age, compared, *differed)));
    lines
}

#[cfg(test)]
mod tests;
