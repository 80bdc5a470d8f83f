//! Asks the owner and the subscribers.

use futures_util::future::{join, join_all};
use nudge_protocol::{
    EntityId, EntityName,
    admin::{ChangeLogAnswer, ChangeLogRequest, Keys, KeysRequest, RecordedVersion},
    sync_api::{BatchGetAnswer, BatchGetRequest, ItemStatus},
};
use reqwest::{Method, RequestBuilder, StatusCode};

use super::{Held, OwnerHeld, SubscriberHeld};
use crate::{
    client::{Api, refusal},
    failure::Failure,
    peers::Peer,
    roles::{self, Subscriber},
};

/// How often everyone is asked if the entity changes meanwhile: a version that is read before another says
/// nothing about which of them is newer.
const MAX_ROUNDS: usize = 3;

pub(super) async fn held(
    api: &Api,
    who: &str,
    entity: EntityName,
    id: EntityId,
) -> Result<Held, Failure> {
    let owner = find_owner(api, &entity, &id).await;
    let mut before = ask_owner(api, &owner, &entity, &id).await;
    for _ in 1..MAX_ROUNDS {
        let subscribers = ask_subscribers(api, who, &entity, &id).await?;
        let after = ask_owner(api, &owner, &entity, &id).await;
        if after.recorded == before.recorded {
            return Ok(Held { entity, id, owner: after, subscribers });
        }
        before = after;
    }
    let subscribers = ask_subscribers(api, who, &entity, &id).await?;
    let owner = ask_owner(api, &owner, &entity, &id).await;
    Ok(Held { entity, id, owner, subscribers })
}

/// Who owns this kind of entity. An owner in another language may have no relay that its metrics tell of, but
/// it answers callbacks.
async fn find_owner(api: &Api, entity: &EntityName, id: &EntityId) -> Result<Peer, Failure> {
    let failure = match roles::owner_of(api, entity).await {
        Ok(owner) => return Ok(owner),
        Err(failure) => failure,
    };
    for peer in api.peers().iter().copied().filter(|peer| peer.demo().is_none()) {
        let answer = api.send(peer, ask_for(api, peer, entity, id)).await;
        if answer.is_ok_and(|answer| answer.status() != StatusCode::NOT_FOUND) {
            return Ok(peer);
        }
    }
    Err(failure)
}

async fn ask_owner(
    api: &Api,
    owner: &Result<Peer, Failure>,
    entity: &EntityName,
    id: &EntityId,
) -> OwnerHeld {
    let peer = match owner {
        Ok(peer) => *peer,
        Err(failure) => {
            return OwnerHeld { error: Some(failure.to_string()), ..OwnerHeld::default() };
        }
    };
    let (held, owned) = join(ask_log(api, peer, entity, id), roles::owned(api, peer)).await;
    let relay = owned.ok().and_then(|all| all.into_iter().find(|one| one.entity == *entity));
    let (service, url) = (Some(peer.name().to_owned()), Some(peer.url().to_owned()));
    match held {
        Ok(held) => OwnerHeld { service, url, relay, ..held },
        Err(failure) => {
            let error = Some(failure.to_string());
            OwnerHeld { service, url, error, relay, ..OwnerHeld::default() }
        }
    }
}

async fn ask_log(
    api: &Api,
    peer: Peer,
    entity: &EntityName,
    id: &EntityId,
) -> Result<OwnerHeld, Failure> {
    let path = format!("/sync/v1/{entity}/change-log");
    let request = api.request(Method::POST, peer, &path);
    let request = request.json(&ChangeLogRequest { ids: vec![id.clone()] });
    let response = api.send(peer, request).await?;
    match response.status() {
        status if status.is_success() => {}
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            let recorded = batch_get(api, peer, entity, id).await?;
            return Ok(OwnerHeld { recorded, ..OwnerHeld::default() });
        }
        _ => return Err(refusal(peer, response).await),
    }
    let ChangeLogAnswer { items, stream } = api.body(peer, response).await?;
    let item = items.into_iter().find(|item| item.id == *id).ok_or_else(|| left_out(peer))?;
    Ok(OwnerHeld {
        recorded: item.recorded,
        message: item.message,
        last_sequence: stream.map(|stream| stream.last_sequence),
        offers_change_log: true,
        ..OwnerHeld::default()
    })
}

/// The version that a callback would be answered with.
async fn batch_get(
    api: &Api,
    peer: Peer,
    entity: &EntityName,
    id: &EntityId,
) -> Result<Option<RecordedVersion>, Failure> {
    let BatchGetAnswer { items } = api.json(peer, ask_for(api, peer, entity, id)).await?;
    let item = items.into_iter().find(|item| item.id == *id).ok_or_else(|| left_out(peer))?;
    Ok(item.version.map(|version| RecordedVersion {
        version,
        deleted: item.status == ItemStatus::Deleted,
        changed_at: item.changed_at.unwrap_or_default(),
        pending: false,
        published_version: None,
        sequence: None,
        never_existed: false,
    }))
}

/// A callback for one entity, without its state.
fn ask_for(api: &Api, peer: Peer, entity: &EntityName, id: &EntityId) -> RequestBuilder {
    let request = BatchGetRequest { ids: vec![id.clone()], fields: Some(Vec::new()) };
    api.request(Method::POST, peer, &format!("/sync/v1/{entity}/batch-get")).json(&request)
}

async fn ask_subscribers(
    api: &Api,
    who: &str,
    entity: &EntityName,
    id: &EntityId,
) -> Result<Vec<SubscriberHeld>, Failure> {
    let subscribers = roles::subscribers(api, who).await?.into_iter();
    let ask = |one: Subscriber| ask_subscriber(api, one, entity, id);
    Ok(join_all(subscribers.map(ask)).await.into_iter().flatten().collect())
}

/// `None` of a subscriber of other entities.
async fn ask_subscriber(
    api: &Api,
    Subscriber { peer, status }: Subscriber,
    entity: &EntityName,
    id: &EntityId,
) -> Option<SubscriberHeld> {
    let (service, url) = (peer.name().to_owned(), peer.url().to_owned());
    let held = SubscriberHeld { service, url, error: None, key: None, status: None };
    let status = match status {
        Ok(status) => status.entities.into_iter().find(|one| one.entity == *entity)?,
        Err(_) if roles::follows_others_only(peer, entity) => return None,
        Err(failure) => return Some(SubscriberHeld { error: Some(failure.to_string()), ..held }),
    };
    let request = api.request(Method::POST, peer, &format!("/nudge/v1/keys/{entity}"));
    let request = request.json(&KeysRequest { ids: vec![id.clone()] });
    let answer = api.json::<Keys>(peer, request).await;
    let key = answer.and_then(|Keys { items }| {
        items.into_iter().find(|key| key.id == *id).ok_or_else(|| left_out(peer))
    });
    let status = Some(status);
    Some(match key {
        Ok(key) => SubscriberHeld { key: Some(key), status, ..held },
        Err(failure) => SubscriberHeld { error: Some(failure.to_string()), status, ..held },
    })
}

fn left_out(peer: Peer) -> Failure {
    Failure::failed(format!("{} left the ID out of its answer", peer.name()))
}
