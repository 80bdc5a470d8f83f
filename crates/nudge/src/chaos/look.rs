//! Asks everyone what they say of every store, by what they say to anyone who asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use nudge_protocol::{
    EntityId,
    admin::{AppliedVersion, DeadLetterPage, Status},
    sync_api::{ItemsPage, ItemsRequest},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value};

use super::{
    compare::{Difference, Model, Owned, Shown, Stores, differences, lost, of_owners},
    edits::Written,
    plan::{Place, Target},
    texts,
    world::{Subscriber, World},
};
use crate::{
    client::{Api, Service, segment},
    commands::status::STATUS_PATH,
    failure::Failure,
};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions under way at a time.
const AT_A_TIME: usize = 8;
/// What search shows of a store.
const SEARCH_FIELDS: &[&str] = &["name", "category", "region", "open"];
/// What review shows of a store.
const REVIEW_FIELDS: &[&str] = &["name", "open"];

/// What the owner says of every store, and all that differs now. A failure is somebody who does not
/// answer.
pub(super) async fn look(
    world: &World,
    written: &Written,
) -> Result<(Stores, Vec<Difference>), Failure> {
    let mut replicas = world.replicas();
    let (_, first) = replicas.next().expect("there is one at least");
    let owner = owned(first).await?;
    let mut all = lost(&owner, &written.newest);
    for (replica, api) in replicas {
        let place = Place { on: Target::StoreInfo, replica };
        all.extend(of_owners(&place.to_string(), &owner, &owned(api).await?));
    }
    for Subscriber { name, service, api } in world.subscribers() {
        let mut model = match service {
            Service::Review => {
                let shown = reviewed(api, &owner).await?;
                Model { fields: REVIEW_FIELDS, shows_deleted: true, shown, ..Model::default() }
            }
            _ => Model { fields: SEARCH_FIELDS, shown: found(api, "").await?, ..Model::default() },
        };
        followed(api, service, &owner, &mut model).await?;
        all.extend(differences(&name, &owner, &model));
    }
    Ok((owner, all))
}

/// What search finds by text, where that is not what the owner's stores have. To be asked once nothing
/// else differs: a list of all stores says nothing of the index.
pub(super) async fn look_by_text(
    world: &World,
    owner: &Stores,
) -> Result<Vec<Difference>, Failure> {
    let mut all = Vec::new();
    let search = world.subscribers().into_iter().filter(|one| one.service == Service::Search);
    for Subscriber { name, api, .. } in search {
        let ask = async |question: String| {
            let found: BTreeSet<_> = found(api, &question).await?.into_keys().collect();
            Ok(texts::differences(&name, owner, &question, &found))
        };
        let answers = stream::iter(texts::questions(owner)).map(ask).buffer_unordered(AT_A_TIME);
        all.extend(answers.try_collect::<Vec<_>>().await?.into_iter().flatten());
    }
    Ok(all)
}

fn get(api: &Api, service: Service, path: &str) -> RequestBuilder {
    api.request(Method::GET, service, path).timeout(ANSWER_TIMEOUT)
}

fn strange(service: Service, what: &Value) -> Failure {
    Failure::failed(format!("{} answered with something unexpected: {what}", service.name()))
}

/// Every store of the owner, tombstones included.
async fn owned(api: &Api) -> Result<Stores, Failure> {
    let service = Service::StoreInfo;
    let (mut stores, mut after) = (Stores::new(), None);
    loop {
        let request = api.request(Method::POST, service, "/sync/v1/store/items");
        let request = request.json(&ItemsRequest { after, limit: None }).timeout(ANSWER_TIMEOUT);
        let page: ItemsPage = api.json(service, request).await?;
        for item in page.items {
            stores.insert(item.id, Owned { version: item.version.get(), state: None });
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut after = String::new();
    loop {
        let request = get(api, service, "/stores").query(&[("limit", "100"), ("after", &after)]);
        let page: Value = api.json(service, request).await?;
        for store in page["items"].as_array().into_iter().flatten() {
            let (id, fields) = parts(store).ok_or_else(|| strange(service, store))?;
            // A store without a version was written just now; nobody writes any more.
            stores.get_mut(&id).ok_or_else(|| strange(service, store))?.state = Some(fields);
        }
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return Ok(stores),
        }
    }
}

fn parts(store: &Value) -> Option<(EntityId, Map<String, Value>)> {
    let id = EntityId::new(store["id"].as_str()?).ok()?;
    Some((id, store.as_object()?.clone()))
}

fn live(store: &Value) -> Option<(EntityId, Shown)> {
    let (id, fields) = parts(store)?;
    Some((id, Shown::Live { version: store["version"].as_u64()?, fields }))
}

/// Every store that search finds by a text, or all of them by an empty one.
async fn found(api: &Api, text: &str) -> Result<BTreeMap<EntityId, Shown>, Failure> {
    let service = Service::Search;
    let (mut stores, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let request = get(api, service, "/stores");
        let request = request.query(&[("limit", "100"), ("cursor", &cursor), ("q", text)]);
        let page: Value = api.json(service, request).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            let (id, shown) = live(item).ok_or_else(|| strange(service, item))?;
            stores.insert(id, shown);
        }
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(stores),
        }
    }
}

/// What review says of every store that the owner has had.
async fn reviewed(api: &Api, owner: &Stores) -> Result<BTreeMap<EntityId, Shown>, Failure> {
    let service = Service::Review;
    let ask = async |id: &EntityId| {
        let path = format!("/stores/{}/reviews", segment(id)?);
        let answer = api.send(service, get(api, service, &path)).await?;
        match answer.status().as_u16() {
            404 => Ok(None),
            410 => Ok(Some((id.clone(), Shown::Deleted))),
            200 => {
                let page: Value = api.body(service, answer).await?;
                let store = &page["store"];
                live(store).map(Some).ok_or_else(|| strange(service, store))
            }
            status => Err(Failure::failed(format!("review answered {status} for {id}"))),
        }
    };
    let answers = stream::iter(owner.keys()).map(ask).buffer_unordered(AT_A_TIME);
    Ok(answers.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
}

/// What a subscriber has applied.
async fn followed(
    api: &Api,
    service: Service,
    owner: &Stores,
    model: &mut Model,
) -> Result<(), Failure> {
    let ask = async |id: &EntityId| {
        let path = format!("/nudge/v1/applied/store/{}", segment(id)?);
        let answer = api.send(service, get(api, service, &path)).await?;
        if answer.status().as_u16() == 404 {
            return Ok(None);
        }
        let applied: AppliedVersion = api.body(service, answer).await?;
        Ok(Some((id.clone(), (applied.version.get(), applied.deleted))))
    };
    let answers = stream::iter(owner.keys()).map(ask).buffer_unordered(AT_A_TIME);
    let answers: Vec<_> = answers.try_collect().await?;
    model.applied = answers.into_iter().flatten().collect();
    let status: Status = api.json(service, get(api, service, STATUS_PATH)).await?;
    let store = status.entities.iter().find(|status| status.entity.as_str() == "store");
    model.applied_count = store.map_or(0, |status| status.applied);
    let dead = get(api, service, "/nudge/v1/dead-letters");
    let dead: DeadLetterPage = api.json(service, dead).await?;
    model.dead_letters = dead.items.into_iter().map(|item| item.id).collect();
    Ok(())
}
