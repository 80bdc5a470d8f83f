//! `nudge status`: how each subscriber is doing, and what owners have not published yet.

use clap::Args;
use console::style;
use futures_util::future::{join, join_all, join3};
use nudge_protocol::{
    Timestamp,
    admin::{BreakerState, CatchingUp, EntityStatus, ResyncStatus, Status, Sweep},
};
use nudge_runtime::{
    Broker, problem,
    secret::{self, Secret},
};
use reqwest::Method;
use serde_json::json;

use super::{breaking, resync};
use crate::{
    client::Api,
    failure::Failure,
    output::{self, duration},
    peers::{self, Also, HOLDERS_PATH, Holder, Peer},
    roles::{self, OwnerStatus},
};

/// Arguments of `nudge status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Also ask this NATS server who holds a consumer: it knows subscribers that nobody has named
    #[arg(long, env = "NATS_URL", value_name = "URL", hide_env_values = true, value_parser = secret::given(secret::any))]
    nats_url: Option<Secret>,
}

/// What one service says of itself.
struct Looked {
    peer: Peer,
    owned: Result<Vec<OwnerStatus>, Failure>,
    status: Result<Option<Status>, Failure>,
}

/// Runs `nudge status`.
pub(crate) async fn run(
    api: Api,
    also: &Also,
    console: Peer,
    args: StatusArgs,
    json: bool,
) -> Result<(), Failure> {
    if let Some(url) = &args.nats_url {
        also.may_reach("--nats-url", url.expose())?;
    }
    let (looked, holders, broken) =
        join3(look(&api), holders(&api, console, args.nats_url), breaking::broken(&api, console))
            .await;
    // What the services say is worth showing without the broker, too.
    let (holders, broker_fails) = match holders {
        Ok(holders) => (holders, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let silent = silent(&looked, holders);
    if json {
        let mut shown = to_json(&looked, &silent);
        shown["broken_on_purpose"] = json!(broken);
        output::json(&shown)?;
    } else {
        for one in &broken {
            output::line(style(format!("broken on purpose: {one}")).yellow())?;
        }
        for line in to_lines(&looked, &silent, nudge_runtime::clock::now()) {
            output::line(line)?;
        }
    }
    looked.into_iter().find_map(failure).or(broker_fails).map_or(Ok(()), Err)
}

/// Who holds a consumer at this broker; if none is named, at the console's. Whoever does not run `nudge dev` has no console.
async fn holders(
    api: &Api,
    console: Peer,
    nats_url: Option<Secret>,
) -> Result<Vec<Holder>, Failure> {
    let Some(url) = nats_url else {
        let request = api.request(Method::GET, console, HOLDERS_PATH);
        return Ok(api.json(console, request).await.unwrap_or_default());
    };
    let broker = Broker::connect_as_set(url.expose(), "nudge-status").await;
    let broker = broker.map_err(|error| Failure::failed(problem::chain(&error)))?;
    peers::holders(&broker).await
}

async fn look(api: &Api) -> Vec<Looked> {
    let ask = async |peer| {
        let (owned, status) = join(roles::owned(api, peer), roles::followed(api, peer)).await;
        Looked { peer, owned, status }
    };
    join_all(api.peers().iter().copied().map(ask)).await
}

/// Those that hold a consumer and were not asked.
fn silent(looked: &[Looked], mut holders: Vec<Holder>) -> Vec<Holder> {
    let asked = |holder: &Holder| {
        looked.iter().any(|one| match &one.status {
            Ok(Some(status)) => status.service == holder.service,
            Ok(None) => false,
            // What it calls itself is not known.
            Err(_) => one.peer.name() == holder.service,
        })
    };
    holders.retain(|holder| !asked(holder));
    holders
}

fn failure(looked: Looked) -> Option<Failure> {
    match (looked.owned, looked.status) {
        (Err(failure), _) | (_, Err(failure)) => Some(failure),
        (Ok(owned), Ok(None)) if owned.is_empty() => {
            let (name, address) = (looked.peer.name(), looked.peer.address());
            Some(Failure::failed(format!(
                "{name} on {address} is neither an owner nor a subscriber"
            )))
        }
        _ => None,
    }
}

fn to_json(looked: &[Looked], silent: &[Holder]) -> serde_json::Value {
    let error = |failure: &Failure| json!({ "error": failure.to_string() });
    let (mut owners, mut subscribers) = (serde_json::Map::new(), serde_json::Map::new());
    let mut owned = Vec::new();
    for one in looked {
        let name = one.peer.name();
        match &one.owned {
            Ok(all) => {
                owners.extend(all.first().map(|first| (name.to_owned(), json!(first))));
                owned.extend(all.iter().map(|one| json!({ "service": name, "status": one })));
            }
            Err(failure) if roles::owns_something(one.peer) => {
                owners.insert(name.to_owned(), error(failure));
            }
            Err(_) => {}
        }
        match &one.status {
            Ok(Some(status)) => drop(subscribers.insert(name.to_owned(), json!(status))),
            Err(failure) if !roles::follows_nothing(one.peer) => {
                subscribers.insert(name.to_owned(), error(failure));
            }
            _ => {}
        }
    }
    json!({ "owners": owners, "owned": owned, "subscribers": subscribers, "silent": silent })
}

fn heading(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| style(cell).dim().to_string()).collect()
}

fn to_lines(looked: &[Looked], silent: &[Holder], now: Timestamp) -> Vec<String> {
    let mut lines = of_owners(looked);
    lines.push(String::new());
    lines.extend(of_subscribers(looked, now));
    lines.extend(silent.iter().map(|holder| {
        let Holder { service, entity, pulling, pending } = holder;
        let does = if *pulling { "pulls them" } else { "does not pull them now" };
        let line = format!(
            "  {service} holds a consumer of changes of {entity}, {pending} pending, and {does}; \
             --also {service}=URL shows more"
        );
        style(line.replace(char::is_control, " ")).yellow().to_string()
    }));
    lines
}

fn of_owners(looked: &[Looked]) -> Vec<String> {
    let mut rows = vec![heading(&["owner", "of", "pending", "published", "broker"])];
    let (mut troubles, mut remarks) = (Vec::new(), Vec::new());
    for Looked { peer, owned, .. } in looked {
        let name = peer.name();
        let away_from = peer.demo().and_then(|service| service.owns()).filter(|_| owned.is_err());
        rows.extend(away_from.map(|entity| away(*peer, entity, rows[0].len())));
        for status in owned.iter().flatten() {
            rows.push(vec![
                name.to_owned(),
                status.entity.to_string(),
                attention(status.pending.unwrap_or_default() as i64),
                status.published.map_or_else(|| "—".to_owned(), |number| number.to_string()),
                way_out(status),
            ]);
            troubles.extend(complaints(status).into_iter().map(|said| format!("  {name}: {said}")));
            let made = status.stranger_tombstones.filter(|made| *made > 0);
            remarks.extend(made.map(|made| {
                let (entity, hint) = (&status.entity, "made up by somebody, or lost in a restore");
                format!("  {name}: {made} tombstones ({entity}) for IDs that it has no record of: {hint}; see nudge tombstones")
            }));
        }
    }
    let mut lines = output::table(&rows);
    lines.extend(troubles.into_iter().map(|line| style(line).red().to_string()));
    lines.extend(remarks.into_iter().map(|line| style(line).yellow().to_string()));
    lines
}

fn of_subscribers(looked: &[Looked], now: Timestamp) -> Vec<String> {
    let mut rows = vec![heading(&[
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
    for Looked { peer, status, .. } in looked {
        let name = peer.name();
        match status {
            Ok(status) => {
                for entity in status.iter().flat_map(|status| &status.entities) {
                    rows.push(entity_row(*peer, entity, now));
                    let error = entity.last_error.as_ref();
                    errors.extend(error.map(|error| format!("{name}: {error}")));
                    let waiting = entity.resync.iter().map(|resync| resync.removals_waiting);
                    errors.extend(waiting.filter(|waiting| *waiting > 0).map(|waiting| {
                        let of = &entity.entity;
                        format!("{name}: the owner does not have {waiting} ({of}) that are here; see nudge resync")
                    }));
                }
            }
            Err(_) if roles::follows_nothing(*peer) => {}
            Err(_) => rows.push(away(*peer, "—", rows[0].len())),
        }
    }
    let mut lines = output::table(&rows);
    lines.extend(errors.iter().map(|error| style(format!("  {error}")).yellow().to_string()));
    lines
}

/// Problems of an owner's stream.
fn complaints(status: &OwnerStatus) -> Vec<String> {
    let entity = &status.entity;
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

fn entity_row(peer: Peer, status: &EntityStatus, now: Timestamp) -> Vec<String> {
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
        peer.name().to_owned(),
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
fn away(peer: Peer, entity: &str, columns: usize) -> Vec<String> {
    let mut row = vec![peer.name().to_owned(), entity.to_owned()];
    row.resize(columns - 1, "—".to_owned());
    row.push(style("does not answer").red().to_string());
    row
}

#[cfg(test)]
mod tests;
