//! What each service is. It is asked: whoever follows something is a subscriber, whoever has a relay is an owner.

use futures_util::future::join_all;
use nudge_protocol::{EntityName, admin::Status};
use reqwest::{Method, StatusCode};
use serde::Serialize;

use crate::{
    client::{Api, Service, refusal},
    failure::Failure,
    peers::Peer,
};

/// Path of a subscriber's status.
pub(crate) const STATUS_PATH: &str = "/nudge/v1/status";
/// The metric that each owner has for each of its entities.
const PENDING: &str = "nudge_relay_pending";

/// The state of an owner's relay, from its metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct OwnerStatus {
    /// What it owns.
    pub(crate) entity: EntityName,
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

impl OwnerStatus {
    /// Of an owner that does not answer.
    pub(crate) fn unknown(entity: EntityName) -> Self {
        relay("", entity)
    }
}

/// What a service says of itself as a subscriber; `None` if it is none.
pub(crate) async fn followed(api: &Api, peer: Peer) -> Result<Option<Status>, Failure> {
    let response = api.send(peer, api.request(Method::GET, peer, STATUS_PATH)).await?;
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => {
            let status: Status = api.body(peer, response).await?;
            // An owner that the kit runs has a status, too.
            Ok((!status.entities.is_empty()).then_some(status))
        }
        _ => Err(refusal(peer, response).await),
    }
}

/// What a subscriber says of itself.
pub(crate) async fn status(api: &Api, peer: Peer) -> Result<Status, Failure> {
    let none = || Failure::failed(format!("{} is no subscriber: it follows nothing", peer.name()));
    followed(api, peer).await?.ok_or_else(none)
}

/// What a service owns: nothing, unless it is an owner. The contract has no status of owners; their metrics say the same.
pub(crate) async fn owned(api: &Api, peer: Peer) -> Result<Vec<OwnerStatus>, Failure> {
    Ok(metrics(api, peer).await?.map_or_else(Vec::new, |text| relays(&text)))
}

/// A service's metrics, as OpenMetrics text; `None` if it has none.
pub(crate) async fn metrics(api: &Api, peer: Peer) -> Result<Option<String>, Failure> {
    let response = api.send(peer, api.request(Method::GET, peer, "/metrics")).await?;
    match response.status() {
        StatusCode::NOT_FOUND => return Ok(None),
        status if !status.is_success() => return Err(refusal(peer, response).await),
        _ => {}
    }
    response.text().await.map(Some).map_err(|error| api.transport(peer, &error))
}

/// The state of each relay in an owner's metrics.
pub(crate) fn relays(text: &str) -> Vec<OwnerStatus> {
    entities(text).into_iter().map(|entity| relay(text, entity)).collect()
}

fn relay(text: &str, entity: EntityName) -> OwnerStatus {
    let of = |name| metric(text, name, entity.as_str());
    let flag = |name| of(name).map(|number| number == 1);
    OwnerStatus {
        pending: of(PENDING),
        connected: flag("nudge_relay_connected"),
        broker_connected: flag("nudge_relay_broker_connected"),
        stream_altered: flag("nudge_relay_stream_altered"),
        published: of("nudge_relay_published_total"),
        strangers: of("nudge_relay_strangers"),
        stranger_tombstones: of("nudge_relay_stranger_tombstones"),
        entity,
    }
}

/// The entities of which these metrics know a relay.
fn entities(text: &str) -> Vec<EntityName> {
    let samples = text.lines().filter_map(|line| line.strip_prefix(PENDING)?.strip_prefix('{'));
    let mut entities: Vec<_> = samples
        .filter_map(|labels| labels.split_once("entity=\"")?.1.split_once('"'))
        .filter_map(|(name, _)| EntityName::new(name).ok())
        .collect();
    entities.sort_unstable();
    entities.dedup();
    entities
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

/// The services that a `--subscriber` argument names, whatever they are.
pub(crate) fn named(api: &Api, who: &str) -> Result<Vec<Peer>, Failure> {
    let is_meant = |peer: &Peer| {
        let (name, _) = peer.name().split_once('~').unwrap_or((peer.name(), ""));
        who == "all" || [name, peer.name()].contains(&who)
    };
    let meant: Vec<_> = api.peers().iter().copied().filter(is_meant).collect();
    match meant.is_empty() {
        false => Ok(meant),
        true => {
            let names = list(api.peers());
            Err(Failure::Usage(format!(
                "--subscriber {who:?} is none of {names}; another is named by --also NAME=URL"
            )))
        }
    }
}

/// The subscribers that a `--subscriber` argument names, and what they follow. One that does not answer is left out only
/// if it is known to follow nothing: to say nothing of it would be to say that all is well.
pub(crate) async fn subscribers(api: &Api, who: &str) -> Result<Vec<Subscriber>, Failure> {
    let ask = |peer| async move { (peer, followed(api, peer).await) };
    let answers = join_all(named(api, who)?.into_iter().map(ask)).await;
    let subscribers: Vec<_> = answers
        .into_iter()
        .filter_map(|(peer, answer)| match answer {
            Ok(status) => status.map(|status| Subscriber { peer, status: Ok(status) }),
            Err(_) if follows_nothing(peer) => None,
            Err(failure) => Some(Subscriber { peer, status: Err(failure) }),
        })
        .collect();
    match subscribers.is_empty() && who != "all" {
        true => Err(Failure::failed(format!("{who} is no subscriber: it follows nothing"))),
        false => Ok(subscribers),
    }
}

/// The [`subscribers`] that follow this kind of entity, or any if none is named.
pub(crate) async fn followers(
    api: &Api,
    who: &str,
    entity: Option<&EntityName>,
) -> Result<Vec<Peer>, Failure> {
    let subscribers = subscribers(api, who).await?;
    let asked: Vec<_> = subscribers.iter().map(|one| one.peer).collect();
    let follows = |one: &Subscriber| match (entity, &one.status) {
        (Some(entity), Ok(status)) => status.entities.iter().any(|one| one.entity == *entity),
        // The request that comes next says what is wrong.
        (None, _) | (_, Err(_)) => true,
    };
    let followers = subscribers.iter().filter(|one| follows(one)).map(|one| one.peer);
    let followers: Vec<_> = followers.collect();
    match entity.filter(|_| followers.is_empty()) {
        None => Ok(followers),
        Some(entity) => {
            let asked = list(&asked);
            Err(Failure::failed(format!("{entity} is not followed by {asked}")))
        }
    }
}

/// A service that follows something, as far as is known.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// Which.
    pub(crate) peer: Peer,
    /// What it says of itself.
    pub(crate) status: Result<Status, Failure>,
}

/// Of the demo's services it is known while they are away.
pub(crate) fn follows_nothing(peer: Peer) -> bool {
    peer.demo().is_some_and(|service| service.follows().next().is_none())
}

/// The same if it follows something else than this kind of entity.
pub(crate) fn follows_others_only(peer: Peer, entity: &EntityName) -> bool {
    let follows =
        |service: Service| service.follows().any(|one| one.owns() == Some(entity.as_str()));
    peer.demo().is_some_and(|service| !follows(service))
}

/// The same of what it owns.
pub(crate) fn owns_something(peer: Peer) -> bool {
    peer.demo().is_some_and(|service| service.owns().is_some())
}

/// Who owns this kind of entity.
pub(crate) async fn owner_of(api: &Api, entity: &EntityName) -> Result<Peer, Failure> {
    let ask = |peer: Peer| async move { (peer, owned(api, peer).await) };
    let mut away = None;
    for (peer, answer) in join_all(api.peers().iter().copied().map(ask)).await {
        let may_own = peer.demo().is_none_or(|service| service.owns() == Some(entity.as_str()));
        match answer {
            Ok(owned) if owned.iter().any(|one| one.entity == *entity) => return Ok(peer),
            Err(failure) if may_own => away = away.or(Some(failure)),
            _ => {}
        }
    }
    Err(away.unwrap_or_else(|| Failure::failed(format!("no service here owns {entity}"))))
}

/// Names in a row, as a sentence has them.
pub(crate) fn list(peers: &[Peer]) -> String {
    let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
    match names.split_last() {
        None => "nobody".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests;
