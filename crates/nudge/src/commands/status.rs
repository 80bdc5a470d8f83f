//! `nudge status`: how each subscriber is doing, and what owners have not published yet.

use console::style;
use futures_util::future::join_all;
use nudge_protocol::{
    Timestamp,
    admin::{BreakerState, CatchingUp, EntityStatus, ResyncStatus, Status, Sweep},
};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::resync;
use crate::{
    client::{Api, Service},
    failure::Failure,
    output::{self, duration},
};

/// Path of a subscriber's status.
pub(crate) const STATUS_PATH: &str = "/nudge/v1/status";
/// Services that own an entity, and its name.
pub(crate) const OWNERS: [(Service, &str); 2] =
    [(Service::StoreInfo, "store"), (Service::Review, "review")];

/// The state of an owner's relay, from its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct OwnerStatus {
    /// Changes that are committed and not published yet.
    pub(crate) pending: Option<u64>,
    /// Whether it reaches the stream, and the stream accepts what it publishes.
    pub(crate) connected: Option<bool>,
    /// Whether the broker is reachable.
    pub(crate) broker_connected: Option<bool>,
    /// Whether others have altered its stream, and it cannot alter it back.
    pub(crate) stream_altered: Option<bool>,
    /// Notifications published since its start.
    pub(crate) published: Option<u64>,
    /// Least number of entities that its stream holds and it does not know.
    pub(crate) strangers: Option<u64>,
    /// Tombstones that it made because its stream holds IDs that it has no record of.
    pub(crate) stranger_tombstones: Option<u64>,
}

type Answers<T> = Vec<(Service, Result<T, Failure>)>;

/// Runs `nudge status`.
pub(crate) async fn run(api: Api, json: bool) -> Result<(), Failure> {
    let (owners, subscribers) =
        futures_util::future::join(ask_owners(&api), ask_subscribers(&api)).await;
    if json {
        output::json(&to_json(&owners, &subscribers))?;
    } else {
        for line in to_lines(&owners, &subscribers, nudge_runtime::clock::now()) {
            output::line(line)?;
        }
    }
    let failed = owners.into_iter().filter_map(|(_, answer)| answer.err());
    let mut failed = failed.chain(subscribers.into_iter().filter_map(|(_, answer)| answer.err()));
    failed.next().map_or(Ok(()), Err)
}

async fn ask_subscribers(api: &Api) -> Answers<Status> {
    let ask = async |service| (service, of(api, service).await);
    join_all(Service::SUBSCRIBERS.map(ask)).await
}

async fn ask_owners(api: &Api) -> Answers<OwnerStatus> {
    let ask = async |(service, entity)| (service, ask_owner(api, service, entity).await);
    join_all(OWNERS.map(ask)).await
}

/// The contract has no status of owners; their metrics say the same.
async fn ask_owner(api: &Api, service: Service, entity: &str) -> Result<OwnerStatus, Failure> {
    let response = api.expect(service, api.request(Method::GET, service, "/metrics")).await?;
    let text = response.text().await.map_err(|error| api.transport(service, &error))?;
    let flag = |name| metric(&text, name, entity).map(|number| number == 1);
    Ok(OwnerStatus {
        pending: metric(&text, "nudge_relay_pending", entity),
        connected: flag("nudge_relay_connected"),
        broker_connected: flag("nudge_relay_broker_connected"),
        stream_altered: flag("nudge_relay_stream_altered"),
        published: metric(&text, "nudge_relay_published_total", entity),
        strangers: metric(&text, "nudge_relay_strangers", entity),
        stranger_tombstones: metric(&text, "nudge_relay_stranger_tombstones", entity),
    })
}

/// A whole number from OpenMetrics text: the sample of this name with this entity's label.
pub(crate) fn metric(text: &str, name: &str, entity: &str) -> Option<u64> {
    let label = format!("entity=\"{entity}\"");
    text.lines().find_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?;
        let (labels, value) = labels.split_once('}')?;
        let value: f64 = value.split_whitespace().next()?.parse().ok()?;
        labels.split(',').any(|one| one == label).then_some(value as u64)
    })
}

fn to_json(owners: &Answers<OwnerStatus>, subscribers: &Answers<Status>) -> serde_json::Value {
    fn members<T: Serialize>(answers: &Answers<T>) -> serde_json::Map<String, serde_json::Value> {
        let member = |(service, answer): &(Service, Result<T, Failure>)| {
            let value = match answer {
                Ok(status) => json!(status),
                Err(failure) => json!({ "error": failure.to_string() }),
            };
            (service.name().to_owned(), value)
        };
        answers.iter().map(member).collect()
    }
    json!({ "owners": members(owners), "subscribers": members(subscribers) })
}

fn to_lines(
    owners: &Answers<OwnerStatus>,
    subscribers: &Answers<Status>,
    now: Timestamp,
) -> Vec<String> {
    let heading = |cells: &[&str]| cells.iter().map(|cell| style(cell).dim().to_string()).collect();
    let mut rows: Vec<Vec<String>> =
        vec![heading(&["owner", "of", "pending", "published", "broker"])];
    for ((service, answer), (_, entity)) in owners.iter().zip(OWNERS) {
        rows.push(match answer {
            Ok(status) => vec![
                service.name().to_owned(),
                entity.to_owned(),
                attention(status.pending.unwrap_or_default() as i64),
                status.published.map_or_else(|| "—".to_owned(), |number| number.to_string()),
                way_out(status),
            ],
            Err(_) => away(*service, entity, rows[0].len()),
        });
    }
    let mut lines = output::table(&rows);
    for ((service, answer), (_, entity)) in owners.iter().zip(OWNERS) {
        let said = answer.iter().flat_map(|status| complaints(status, entity));
        let said = said.map(|said| format!("  {}: {said}", service.name()));
        lines.extend(said.map(|line| style(line).red().to_string()));
    }
    lines.extend(owners.iter().zip(OWNERS).filter_map(|((service, answer), (_, entity))| {
        let made = answer.as_ref().ok()?.stranger_tombstones.filter(|made| *made > 0)?;
        let (name, hint) = (service.name(), "made up by somebody, or lost in a restore");
        let line = format!("  {name}: {made} tombstones ({entity}) for IDs that it has no record of: {hint}; see nudge tombstones");
        Some(style(line).yellow().to_string())
    }));
    lines.push(String::new());
    let mut rows: Vec<Vec<String>> = vec![heading(&[
        "subscriber",
        "follows",
        "applied",
        "lag",
        "queued",
        "processing",
        "retrying",
        "parked",
        "dead letters",
        "breaker",
        "broker",
        "last progress",
        "equal to the owner",
    ])];
    let mut errors = Vec::new();
    for (service, answer) in subscribers {
        match answer {
            Ok(status) => {
                for entity in &status.entities {
                    rows.push(entity_row(*service, entity, now));
                    let error = entity.last_error.as_ref();
                    errors.extend(error.map(|error| format!("{}: {error}", service.name())));
                    let waiting = entity.resync.iter().map(|resync| resync.removals_waiting);
                    errors.extend(waiting.filter(|waiting| *waiting > 0).map(|waiting| {
                        let (name, of) = (service.name(), &entity.entity);
                        format!("{name}: the owner does not have {waiting} ({of}) that are here; see nudge resync")
                    }));
                }
            }
            Err(_) => rows.push(away(*service, "—", rows[0].len())),
        }
    }
    lines.extend(output::table(&rows));
    lines.extend(errors.iter().map(|error| style(format!("  {error}")).yellow().to_string()));
    lines
}

/// Problems of an owner's stream.
fn complaints(status: &OwnerStatus, entity: &str) -> Vec<String> {
    let strangers = status.strangers.filter(|strangers| *strangers > 0).map(|strangers| {
        format!(
            "its stream holds at least {strangers} ({entity}) that it does not know: was its database lost? \
             Subscribers still show them"
        )
    });
    let altered = status.stream_altered.filter(|altered| *altered).map(|_| {
        format!("its stream ({entity}) is not as it must be at the broker, and cannot be mended; see its log")
    });
    strangers.into_iter().chain(altered).collect()
}

fn entity_row(service: Service, status: &EntityStatus, now: Timestamp) -> Vec<String> {
    let breaker = match status.breaker {
        Some(BreakerState::Closed) => style("closed").green(),
        Some(state) => style(state.as_str()).red(),
        None => style("—").dim(),
    };
    let progress = status.last_progress.map(|at| duration(now.seconds_since(at)) + " ago");
    let link = match status.paused {
        true => style("paused").yellow().to_string(),
        false => way_in(status),
    };
    vec![
        service.name().to_owned(),
        status.entity.to_string(),
        status.applied.to_string(),
        status.lag_seconds.map_or_else(|| "—".to_owned(), duration),
        status.queued.to_string(),
        status.processing.to_string(),
        attention(status.retrying),
        attention(status.parked as i64),
        attention(status.dead_letters as i64),
        breaker.to_string(),
        link,
        progress.unwrap_or_else(|| "—".to_owned()),
        match (&status.catching_up, &status.resync) {
            (Some(catching_up), _) => far(catching_up),
            (None, Some(resync)) => equality(resync, status.applied, now),
            (None, None) => "—".to_owned(),
        },
    ]
}

/// What a subscriber reports.
pub(super) async fn of(api: &Api, service: Service) -> Result<Status, Failure> {
    api.json(service, api.request(Method::GET, service, STATUS_PATH)).await
}

/// Such as `catching up: 20 %, 16.0 s left`.
fn far(catching_up: &CatchingUp) -> String {
    let CatchingUp { handled, left, seconds_left } = *catching_up;
    let share = handled as f64 / (handled + left).max(1) as f64;
    let left =
        seconds_left.map_or_else(|| format!("{left} to go"), |left| duration(left) + " left");
    format!("catching up: {:.0} %, {left}", share * 100.0)
}

/// What the last comparison with the owner found, and when; and how far the one in progress is, of so many entities.
fn equality(resync: &ResyncStatus, entities: u64, now: Timestamp) -> String {
    let ago = |at| duration(now.seconds_since(at)) + " ago";
    let last = resync.last.as_ref().map(|last| match last.differences.sum() {
        0 => style(ago(last.ended_at.unwrap_or(last.began_at))).green().to_string(),
        _ => style(resync::described(&last.differences)).yellow().to_string(),
    });
    let current = resync.current.as_ref().filter(|current| current.compared > 0);
    let current = current.map(|current| progress_of(current, entities, now));
    let contents = resync.contents.last.as_ref().map(|pass| match pass.altered + pass.strays {
        0 => format!("contents {}", ago(pass.ended_at.unwrap_or(pass.began_at))),
        edited => style(format!("{edited} edited by somebody")).yellow().to_string(),
    });
    let said: Vec<_> = last.into_iter().chain(current).chain(contents).collect();
    match (said.is_empty(), &resync.waits_for) {
        (true, Some(why)) => style(why).yellow().to_string(),
        (true, None) => "not compared yet".to_owned(),
        (false, _) => said.join(", "),
    }
}

/// Such as `38 % compared, 2m left`.
fn progress_of(sweep: &Sweep, entities: u64, now: Timestamp) -> String {
    let share = (sweep.compared as f64 / entities.max(sweep.compared) as f64).clamp(0.0, 1.0);
    let left = now.seconds_since(sweep.began_at).max(0.0) * (1.0 / share - 1.0);
    format!("{:.0} % compared, {} left", share * 100.0, duration(left))
}

/// A number that should be 0.
fn attention(number: i64) -> String {
    match number {
        0 => "0".to_owned(),
        _ => style(number).yellow().bold().to_string(),
    }
}

/// Whether notifications reach a subscriber, and if not, whether the broker is away.
fn way_in(status: &EntityStatus) -> String {
    match (status.connected, status.broker_connected) {
        (Some(false), Some(true)) => style("withheld").red().to_string(),
        (connected, _) => link(connected),
    }
}

/// Whether an owner's notifications are accepted, and if not, whether the broker is away.
fn way_out(status: &OwnerStatus) -> String {
    match (status.connected, status.broker_connected) {
        (Some(false), Some(true)) => style("refused").red().to_string(),
        (connected, _) => link(connected),
    }
}

fn link(connected: Option<bool>) -> String {
    match connected {
        Some(true) => style("connected").green().to_string(),
        Some(false) => style("away").red().to_string(),
        None => "—".to_owned(),
    }
}

/// A row of dashes that ends in the reason.
fn away(service: Service, entity: &str, columns: usize) -> Vec<String> {
    let mut row = vec![service.name().to_owned(), entity.to_owned()];
    row.resize(columns - 1, "—".to_owned());
    row.push(style("does not answer").red().to_string());
    row
}

#[cfg(test)]
mod tests;
