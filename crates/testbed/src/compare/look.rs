//! Asks every program about every store, through their public APIs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use nudge_protocol::{
    EntityId,
    admin::{AppliedVersion, DeadLetterPage, Status},
    subject,
    sync_api::{ItemsPage, ItemsRequest},
};
use reqwest::Client;
use serde_json::{Map, Value};

use super::{Difference, Model, Owned, Shown, Stores, differences, lost, of_owners, texts};
use crate::Service;

/// Longest wait for a connection: everything is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent requests.
const AT_A_TIME: usize = 8;
/// Stores on a page of the owner.
const OWNERS_PAGE: &str = "100";
/// Stores on a page of search: few enough that there are several pages.
const SEARCH_PAGE: &str = "25";
/// The fields of a store that search shows.
const SEARCH_FIELDS: &[&str] = &["name", "category", "region", "open"];
/// The fields of a store that review shows.
const REVIEW_FIELDS: &[&str] = &["name", "open"];
/// Everything that review may return about a store: it keeps only what it needs.
const REVIEW_ANSWER: [&str; 4] = ["id", "name", "open", "version"];

/// A program to compare.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its name in differences.
    pub name: String,
    /// Which service it is.
    pub service: Service,
    /// Its base URL.
    pub url: String,
}

/// Compares programs with the owner.
#[derive(Clone, Debug)]
pub struct Comparison {
    http: Client,
    everyone: Vec<Asked>,
}

impl Comparison {
    /// Compares these programs. The first store-info among them is the reference.
    pub fn new(everyone: Vec<Asked>) -> Self {
        let http = Client::builder()
            // A proxy from the environment cannot reach this machine.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .expect("a client without TLS and files can always be built");
        Self { http, everyone }
    }

    fn of(&self, service: Service) -> impl Iterator<Item = &Asked> {
        self.everyone.iter().filter(move |one| one.service == service)
    }

    /// What the owner has for every store, and all current differences. `newest` are the versions that the
    /// owner returned for writes, and must not forget.
    ///
    /// # Errors
    ///
    /// If a program does not answer, or answers wrongly; one line for people.
    pub async fn look(
        &self,
        newest: &BTreeMap<EntityId, u64>,
    ) -> Result<(Stores, Vec<Difference>), String> {
        let mut owners = self.of(Service::StoreInfo);
        let first = owners.next().ok_or("there is no store-info to ask")?;
        let owner = self.owned(first).await?;
        let mut all = lost(&owner, newest);
        for other in owners {
            all.extend(of_owners(&other.name, &owner, &self.owned(other).await?));
        }
        for subscriber in Service::SUBSCRIBERS.into_iter().flat_map(|service| self.of(service)) {
            let model = self.model(subscriber, &owner).await?;
            all.extend(differences(&subscriber.name, &owner, &model));
        }
        Ok((owner, all))
    }

    /// Differences between what search finds by text and the owner's stores. To be called once nothing
    /// else differs: a list of all stores does not show the index.
    ///
    /// # Errors
    ///
    /// As for [`look`](Self::look).
    pub async fn look_by_text(&self, owner: &Stores) -> Result<Vec<Difference>, String> {
        let mut all = Vec::new();
        for search in self.of(Service::Search) {
            let ask = async |question: String| {
                let found = self.found(search, &question).await?;
                let found: BTreeSet<_> = found.into_keys().collect();
                Ok::<_, String>(texts::differences(&search.name, owner, &question, &found))
            };
            let answers = stream::iter(texts::questions(owner)).map(ask);
            let answers: Vec<_> = answers.buffer_unordered(AT_A_TIME).try_collect().await?;
            all.extend(answers.into_iter().flatten());
        }
        Ok(all)
    }

    /// Every store of an owner, including tombstones.
    async fn owned(&self, owner: &Asked) -> Result<Stores, String> {
        let (mut stores, mut after) = (Stores::new(), None);
        loop {
            let request = self.http.post(format!("{}/sync/v1/store/items", owner.url));
            let request = request.json(&ItemsRequest { after, limit: None });
            let page: ItemsPage = owner.json(request).await?;
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
            let request = self.http.get(format!("{}/stores", owner.url));
            let request = request.query(&[("limit", OWNERS_PAGE), ("after", &after)]);
            let page: Value = owner.json(request).await?;
            for store in owner.items(&page)? {
                let (id, fields) = parts(store).ok_or_else(|| owner.strange(store))?;
                // A store without a version was just being written; nobody writes any more.
                stores.get_mut(&id).ok_or_else(|| owner.strange(store))?.state = Some(fields);
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return Ok(stores),
            }
        }
    }

    /// Everything that a subscriber shows.
    async fn model(&self, subscriber: &Asked, owner: &Stores) -> Result<Model, String> {
        let review = subscriber.service == Service::Review;
        let (applied_count, dead_letters) = self.figures(subscriber).await?;
        Ok(Model {
            fields: if review { REVIEW_FIELDS } else { SEARCH_FIELDS },
            shows_deleted: review,
            shown: match review {
                true => self.reviewed(subscriber, owner).await?,
                false => self.found(subscriber, "").await?,
            },
            applied: self.applied(subscriber, owner).await?,
            applied_count,
            dead_letters,
        })
    }

    /// Every store that search finds by a text, or all of them for an empty one.
    async fn found(&self, search: &Asked, text: &str) -> Result<BTreeMap<EntityId, Shown>, String> {
        let (mut stores, mut cursor) = (BTreeMap::new(), String::new());
        loop {
            let request = self.http.get(format!("{}/stores", search.url));
            let query = [("limit", SEARCH_PAGE), ("cursor", &cursor), ("q", text)];
            let page: Value = search.json(request.query(&query)).await?;
            for item in search.items(&page)? {
                let (id, shown) = live(item).ok_or_else(|| search.strange(item))?;
                if stores.insert(id, shown).is_some() {
                    return Err(format!("{}: {item} is on two pages", search.name));
                }
            }
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return Ok(stores),
            }
        }
    }

    /// What review shows for every store that the owner ever had.
    async fn reviewed(
        &self,
        review: &Asked,
        owner: &Stores,
    ) -> Result<BTreeMap<EntityId, Shown>, String> {
        let ask = async |id: &EntityId| {
            let url = format!("{}/stores/{}/reviews", review.url, subject::encode_token(id));
            let answer = review.send(self.http.get(url)).await?;
            match answer.status().as_u16() {
                404 => Ok(None),
                410 => Ok(Some((id.clone(), Shown::Deleted))),
                200 => {
                    let page: Value = review.body(answer).await?;
                    let store = &page["store"];
                    let shown = live(store).filter(|_| holds_only(store, &REVIEW_ANSWER));
                    shown.map(Some).ok_or_else(|| review.strange(store))
                }
                status => Err(format!("{} answered {status} for {id}", review.name)),
            }
        };
        let answers = stream::iter(owner.keys()).map(ask).buffer_unordered(AT_A_TIME);
        let answers: Vec<_> = answers.try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// The versions that a subscriber has applied, and whether they are deletions.
    async fn applied(
        &self,
        subscriber: &Asked,
        owner: &Stores,
    ) -> Result<BTreeMap<EntityId, (u64, bool)>, String> {
        let ask = async |id: &EntityId| {
            let token = subject::encode_token(id);
            let url = format!("{}/nudge/v1/applied/store/{token}", subscriber.url);
            let answer = subscriber.send(self.http.get(url)).await?;
            if answer.status().as_u16() == 404 {
                return Ok(None);
            }
            let applied: AppliedVersion = subscriber.body(answer).await?;
            Ok::<_, String>(Some((id.clone(), (applied.version.get(), applied.deleted))))
        };
        let answers = stream::iter(owner.keys()).map(ask).buffer_unordered(AT_A_TIME);
        let answers: Vec<_> = answers.try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// How many stores a subscriber has applied, and its dead letters.
    async fn figures(&self, subscriber: &Asked) -> Result<(u64, Vec<EntityId>), String> {
        let get = |path| self.http.get(format!("{}/nudge/v1/{path}", subscriber.url));
        let status: Status = subscriber.json(get("status")).await?;
        let dead: DeadLetterPage = subscriber.json(get("dead-letters")).await?;
        let store = status.entities.iter().find(|status| status.entity.as_str() == "store");
        let applied = store.map_or(0, |status| status.applied);
        Ok((applied, dead.items.into_iter().map(|item| item.id).collect()))
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

fn holds_only(store: &Value, fields: &[&str]) -> bool {
    store.as_object().is_some_and(|all| all.keys().all(|key| fields.contains(&key.as_str())))
}
