//! Asks every program about every entity, through their public APIs.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use nudge_protocol::{
    EntityId,
    admin::{AppliedVersion, DeadLetterPage, EntityStatus, Status},
    subject,
    sync_api::{BatchGetAnswer, BatchGetRequest, ItemsPage, ItemsRequest},
};
use reqwest::Client;

use super::{Applied, Difference, Entities, Newest, Owned, lost, of_applied, of_owners};
use crate::Service;

/// Longest wait for a connection: everything is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent requests to one program.
const AT_A_TIME: usize = 8;
/// Entities on a page of the owner, and in a batch.
const OWNERS_PAGE: usize = 100;

/// A program to compare.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its name in differences.
    pub name: String,
    /// Which service of the demo it is; `None` for another subscriber, of which only versions are compared.
    pub service: Option<Service>,
    /// Its base URL.
    pub url: String,
}

/// How far a look goes on once something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoroughness {
    /// Everything is compared.
    Everything,
    /// Only the differences of the first program that has any are told.
    FirstThatDiffers,
}

/// Compares programs with the owners of what they follow.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub(super) http: Client,
    everyone: Vec<Asked>,
}

impl Comparison {
    /// Compares these programs. The first replica of each owner among them is the reference; what an owner owns that is
    /// not among them is left out.
    pub fn new(everyone: Vec<Asked>) -> Self {
        let http = nudge_runtime::tls::http()
            // A proxy from the environment cannot reach this machine.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .expect("a client can be built");
        Self { http, everyone }
    }

    pub(super) fn of(&self, service: Service) -> impl Iterator<Item = &Asked> {
        self.everyone.iter().filter(move |one| one.service == Some(service))
    }

    /// Those that follow something.
    fn subscribers(&self) -> impl Iterator<Item = &Asked> {
        let follows = |service: Service| Service::SUBSCRIBERS.contains(&service);
        self.everyone.iter().filter(move |one| one.service.is_none_or(follows))
    }

    /// What the owner has for every store, and the current differences, except those that only
    /// [`look_closely`](Self::look_closely) finds: all of them, or those of the first program that has any, which takes
    /// fewer requests. `newest` are the versions that owners answered for writes, and must not forget.
    ///
    /// # Errors
    ///
    /// If a program does not answer, or answers wrongly; one line for people.
    pub async fn look(
        &self,
        newest: &Newest,
        how: Thoroughness,
    ) -> Result<(Entities, Vec<Difference>), String> {
        let mut all = Vec::new();
        let stores = self.owned_by(Service::StoreInfo, "store", newest, &mut all).await?;
        let stores = stores.ok_or("there is no store-info to ask")?;
        let reviews = self.owned_by(Service::Review, "review", newest, &mut all).await?;
        for subscriber in self.subscribers() {
            if how == Thoroughness::FirstThatDiffers && !all.is_empty() {
                break;
            }
            let name = &subscriber.name;
            let get = |path| self.http.get(format!("{}/nudge/v1/{path}", subscriber.url));
            let status: Status = subscriber.json(get("status")).await?;
            let dead: DeadLetterPage = subscriber.json(get("dead-letters")).await?;
            for (entity, owner) in [("store", Some(&stores)), ("review", reviews.as_ref())] {
                let of = |one: &&EntityStatus| one.entity.as_str() == entity;
                let followed = status.entities.iter().find(of);
                let (Some(owner), Some(followed)) = (owner, followed) else { continue };
                let versions = self.versions(subscriber, entity, owner).await?;
                let dead = dead.items.iter().filter(|item| item.entity.as_str() == entity);
                let dead_letters = dead.map(|item| item.id.clone()).collect();
                let applied = Applied { versions, count: followed.applied, dead_letters };
                all.extend(of_applied(name, entity, owner, &applied));
            }
            let shown = self.shown_differences(subscriber, &stores, reviews.as_ref());
            all.extend(shown.await?);
        }
        Ok((stores, all))
    }

    /// Differences that take more requests to see, some of them writes: between the owner's stores and what search finds by
    /// text, what favourites shows of a favourite and ads of a campaign. To be called once nothing else differs.
    ///
    /// # Errors
    ///
    /// As for [`look`](Self::look).
    pub async fn look_closely(&self, stores: &Entities) -> Result<Vec<Difference>, String> {
        let mut all = Vec::new();
        for subscriber in self.subscribers() {
            all.extend(self.closer_differences(subscriber, stores).await?);
        }
        Ok(all)
    }

    /// What the first replica of an owner has, if there is one. What others have differently, and what is lost, is added to
    /// `all`.
    async fn owned_by(
        &self,
        service: Service,
        entity: &'static str,
        newest: &Newest,
        all: &mut Vec<Difference>,
    ) -> Result<Option<Entities>, String> {
        let mut owners = self.of(service);
        let Some(first) = owners.next() else { return Ok(None) };
        let owner = self.owned(first, entity).await?;
        all.extend(lost(&first.name, entity, &owner, newest));
        for other in owners {
            all.extend(of_owners(&other.name, entity, &owner, &self.owned(other, entity).await?));
        }
        Ok(Some(owner))
    }

    /// Everything of this kind that an owner has, including tombstones.
    async fn owned(&self, owner: &Asked, entity: &str) -> Result<Entities, String> {
        let (mut all, mut after) = (Entities::new(), None);
        let post = |call| self.http.post(format!("{}/sync/v1/{entity}/{call}", owner.url));
        loop {
            let request = ItemsRequest { after, limit: Some(OWNERS_PAGE) };
            let page: ItemsPage = owner.json(post("items").json(&request)).await?;
            let ids: Vec<_> = page.items.into_iter().map(|item| item.id).collect();
            if !ids.is_empty() {
                let request = BatchGetRequest { ids, fields: None };
                let answer: BatchGetAnswer = owner.json(post("batch-get").json(&request)).await?;
                for item in answer.items {
                    let version = item.version.ok_or_else(|| owner.strange(&item.id))?.get();
                    let state = item.state.map(|state| serde_json::from_str(state.get()));
                    let state = state.transpose().map_err(|error| owner.strange(&error))?;
                    all.insert(item.id, Owned { version, state });
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// The versions that a subscriber has applied of what an owner has, and whether they are deletions.
    async fn versions(
        &self,
        subscriber: &Asked,
        entity: &str,
        owner: &Entities,
    ) -> Result<BTreeMap<EntityId, (u64, bool)>, String> {
        let ask = async |id: EntityId| {
            let token = subject::encode_token(&id);
            let url = format!("{}/nudge/v1/applied/{entity}/{token}", subscriber.url);
            let answer = subscriber.send(self.http.get(url)).await?;
            if answer.status().as_u16() == 404 {
                return Ok(None);
            }
            let applied: AppliedVersion = subscriber.body(answer).await?;
            Ok(Some((id, (applied.version.get(), applied.deleted))))
        };
        Ok(each(owner.keys(), ask).await?.into_iter().flatten().collect())
    }
}

/// Asks about each of these entities, a few at a time.
pub(super) async fn each<T, F: Future<Output = Result<T, String>>>(
    ids: impl Iterator<Item = &EntityId>,
    ask: impl FnMut(EntityId) -> F,
) -> Result<Vec<T>, String> {
    stream::iter(ids.cloned()).map(ask).buffer_unordered(AT_A_TIME).try_collect().await
}
