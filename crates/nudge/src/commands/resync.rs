//! `nudge resync`: compares subscribers with the owners of what they follow, now.

use std::time::Duration;

use clap::Args;
use console::style;
use futures_util::future::join_all;
use nudge_protocol::{
    EntityName, Timestamp,
    admin::{Differences, EntityStatus, ResyncRequest, ResyncStatus, Status, Sweep},
};
use nudge_runtime::clock;
use reqwest::Method;
use serde::Serialize;

use crate::{client::Api, failure::Failure, output, peers::Peer, roles};

/// How often a subscriber is asked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `nudge resync`.
#[derive(Args, Debug)]
pub(crate) struct ResyncArgs {
    /// The subscriber to compare
    #[arg(long, value_name = "WHO", default_value = "all")]
    subscriber: String,
    /// The kind of entity
    #[arg(long, value_name = "ENTITY", default_value = "store")]
    entity: EntityName,
    /// Also read every entity from its owner and apply it again, even if it does not differ
    #[arg(long)]
    full: bool,
    /// Remove entities that the owner does not have, however many they are
    #[arg(long)]
    allow_removals: bool,
    /// How long to wait for the result, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

impl ResyncArgs {
    fn asked(&self) -> Asked {
        let (entity, full, allow_removals) = (self.entity.clone(), self.full, self.allow_removals);
        let request = ResyncRequest { entity, full, allow_removals };
        Asked { request, timeout: Duration::from_secs(self.timeout) }
    }
}

/// What to compare, and how long to wait for it.
pub(super) struct Asked {
    pub(super) request: ResyncRequest,
    pub(super) timeout: Duration,
}

/// What one subscriber found.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    subscriber: &'static str,
    pub(super) sweep: Sweep,
    removals_waiting: u64,
}

/// Runs `nudge resync`.
pub(crate) async fn run(api: Api, args: ResyncArgs, json: bool) -> Result<(), Failure> {
    let compare = async |peer| compare(&api, peer, args.asked()).await;
    let followers = roles::followers(&api, &args.subscriber, Some(&args.entity)).await?;
    let width = followers.iter().map(|peer| peer.name().len()).max().unwrap_or(0);
    let found = join_all(followers.into_iter().map(compare)).await;
    let mut failure = None;
    for found in found {
        match found {
            Ok(found) => {
                match json {
                    true => output::json(&found)?,
                    false => output::line(to_line(&found, &args.entity, width))?,
                }
                if found.removals_waiting > 0 {
                    failure.get_or_insert_with(|| waiting(&found));
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Has everything compared, and waits for the result.
pub(super) async fn compare(api: &Api, peer: Peer, asked: Asked) -> Result<Found, Failure> {
    let Asked { request: body, timeout } = asked;
    let asked = clock::now();
    let request = api.request(Method::POST, peer, "/nudge/v1/resync").json(&body);
    let _: ResyncStatus = api.json(peer, request).await?;
    let wait = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let status = roles::status(api, peer).await?;
            if let Some((sweep, removals_waiting)) = ended(status, &body, asked) {
                return Ok(Found { subscriber: peer.name(), sweep, removals_waiting });
            }
        }
    };
    let late = || {
        let (name, seconds) = (peer.name(), timeout.as_secs());
        Failure::TimedOut(format!("{name} is not compared within {seconds} s; it goes on"))
    };
    tokio::time::timeout(timeout, wait).await.unwrap_or_else(|_| Err(late()))
}

/// The comparison of this kind that began after this moment, if it has ended.
fn ended(status: Status, request: &ResyncRequest, asked: Timestamp) -> Option<(Sweep, u64)> {
    let of = |status: &EntityStatus| status.entity == request.entity;
    let resync = status.entities.into_iter().find(of)?.resync?;
    let is_that = |sweep: &Sweep| sweep.began_at >= asked && (sweep.full || !request.full);
    let sweep = resync.last.filter(is_that)?;
    Some((sweep, resync.removals_waiting))
}

fn waiting(found: &Found) -> Failure {
    Failure::failed(format!(
        "{}: the owner does not have {} entities that are here. If it is the right owner, --allow-removals removes them",
        found.subscriber, found.removals_waiting
    ))
}

fn to_line(found: &Found, entity: &EntityName, width: usize) -> String {
    let Found { subscriber, sweep, removals_waiting } = found;
    let again = if sweep.full { " and applied again" } else { "" };
    let compared = format!("{subscriber:<width$}  {} × {entity} compared{again}", sweep.compared);
    let except = match sweep.set_aside {
        0 => String::new(),
        1 => ", except 1 that is parked or a dead letter".to_owned(),
        many => format!(", except {many} that are parked or dead letters"),
    };
    if sweep.differences.sum() == 0 {
        return format!("{compared}, {}{except}", style("all equal").green());
    }
    let differed = style(described(&sweep.differences)).yellow();
    match removals_waiting {
        0 => format!("{compared}, repaired: {differed}{except}"),
        _ => format!("{compared}, not all repaired: {differed}{except}"),
    }
}

/// Such as `2 missing, 1 ghost`.
pub(crate) fn described(differences: &Differences) -> String {
    let Differences { missing, lagging, ahead, stale, ghosts } = *differences;
    let counts = [
        (missing, "missing"),
        (lagging, "lagging"),
        (ahead, "ahead of the owner"),
        (stale, "deleted on one side only"),
        (ghosts, "unknown to the owner"),
    ];
    let some = counts.into_iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
