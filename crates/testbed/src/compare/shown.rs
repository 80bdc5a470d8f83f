//! What each service shows of stores.

use std::collections::{BTreeMap, BTreeSet};

use nudge_protocol::{EntityId, subject};
use nudge_runtime::clock;
use reqwest::{Method, Response};
use serde_json::{Map, Value, json};

use super::{
    Asked, Comparison, Difference, Entities, Shown, Shows, look::each, of_shown, reviews, texts,
};
use crate::Service;

/// Stores on a page of search: few enough that there are several pages.
const SEARCH_PAGE: &str = "25";
/// The fields of a store that search shows.
const SEARCH_FIELDS: &[&str] = &["name", "category", "region", "open"];
/// The fields of a store that review and favourites show.
const STANDING_FIELDS: &[&str] = &["name", "open"];
/// The fields of a store that storefront shows.
const PAGE_FIELDS: &[&str] = &["name", "category", "region", "open", "menus"];
/// Everything that review may return about a store: it keeps only what it needs.
const REVIEW_ANSWER: [&str; 4] = ["id", "name", "open", "version"];
/// The end of a campaign that runs long enough to be looked at.
const LATER: &str = "2100-01-01T00:00:00Z";

impl Comparison {
    /// What a subscriber shows differently, as far as reading tells.
    pub(super) async fn shown_differences(
        &self,
        subscriber: &Asked,
        stores: &Entities,
        reviews: Option<&Entities>,
    ) -> Result<Vec<Difference>, String> {
        let shows = match subscriber.service {
            Some(Service::Search) => {
                Shows { deleted: false, stores: self.found(subscriber, "").await? }
            }
            Some(Service::Review) => self.reviewed(subscriber, stores).await?,
            Some(Service::Storefront) => self.pages(subscriber, stores).await?,
            Some(Service::StoreInfo | Service::Favourites | Service::Ads) | None => {
                return Ok(Vec::new());
            }
        };
        let mut all = of_shown(&subscriber.name, stores, &shows);
        if let (Some(Service::Storefront), Some(reviews)) = (subscriber.service, reviews) {
            all.extend(reviews::differences(&subscriber.name, reviews, &shows));
        }
        Ok(all)
    }

    /// What a subscriber shows differently when it is asked for more.
    pub(super) async fn closer_differences(
        &self,
        subscriber: &Asked,
        stores: &Entities,
    ) -> Result<Vec<Difference>, String> {
        let shows = match subscriber.service {
            Some(Service::Search) => return self.text_differences(subscriber, stores).await,
            Some(Service::Favourites) => self.kept(subscriber, stores).await?,
            Some(Service::Ads) => self.advertised(subscriber, stores).await?,
            Some(Service::StoreInfo | Service::Review | Service::Storefront) | None => {
                return Ok(Vec::new());
            }
        };
        Ok(of_shown(&subscriber.name, stores, &shows))
    }

    /// A list of all stores does not show the index of texts.
    async fn text_differences(
        &self,
        search: &Asked,
        stores: &Entities,
    ) -> Result<Vec<Difference>, String> {
        let mut all = Vec::new();
        for question in texts::questions(stores) {
            let found: BTreeSet<_> = self.found(search, &question).await?.into_keys().collect();
            all.extend(texts::differences(&search.name, stores, &question, &found));
        }
        Ok(all)
    }

    /// Every store that search finds by a text, or all of them for an empty one.
    async fn found(&self, search: &Asked, text: &str) -> Result<BTreeMap<EntityId, Shown>, String> {
        let (mut stores, mut cursor) = (BTreeMap::new(), String::new());
        loop {
            let request = self.http.get(format!("{}/stores", search.url));
            let query = [("limit", SEARCH_PAGE), ("cursor", &cursor), ("q", text)];
            let page: Value = search.json(request.query(&query)).await?;
            for item in search.items(&page)? {
                let id = id_of(item).ok_or_else(|| search.strange(item))?;
                let shown = live(item, SEARCH_FIELDS).ok_or_else(|| search.strange(item))?;
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
    async fn reviewed(&self, review: &Asked, stores: &Entities) -> Result<Shows, String> {
        let ask = async |id: EntityId| {
            let path = format!("/stores/{}/reviews", subject::encode_token(&id));
            let shown = async |answer| {
                let page: Value = review.body(answer).await?;
                let store = &page["store"];
                let only = holds_only(store, &REVIEW_ANSWER);
                let shown = live(store, STANDING_FIELDS).filter(|_| only);
                shown.ok_or_else(|| review.strange(store))
            };
            self.standing(review, Method::GET, &path, id, shown).await
        };
        Ok(shows(each(stores.keys(), ask).await?))
    }

    /// The page that storefront shows for every store that the owner ever had.
    async fn pages(&self, storefront: &Asked, stores: &Entities) -> Result<Shows, String> {
        let ask = async |id: EntityId| {
            let path = format!("/stores/{}", subject::encode_token(&id));
            let shown = async |answer| {
                let page = storefront.body(answer).await?;
                live(&page, PAGE_FIELDS).ok_or_else(|| storefront.strange(&page))
            };
            self.standing(storefront, Method::GET, &path, id, shown).await
        };
        Ok(shows(each(stores.keys(), ask).await?))
    }

    /// What favourites shows of every store that the owner ever had, to a user who keeps that store only for as long as
    /// it takes to look. One user for each store: no list is full, and what an interrupted look left behind is alone in its.
    async fn kept(&self, favourites: &Asked, stores: &Entities) -> Result<Shows, String> {
        let ask = async |id: EntityId| {
            let token = subject::encode_token(&id);
            let list = format!("/users/{token}/favourites");
            let path = format!("{list}/{token}");
            self.delete(favourites, &path).await?;
            let shown = async |_| {
                let request = self.http.get(format!("{}{list}", favourites.url));
                let page: Value = favourites.json(request).await?;
                let shown = page["items"].as_array().and_then(|items| items.first());
                let shown = shown.and_then(|item| live(item, STANDING_FIELDS));
                self.delete(favourites, &path).await?;
                shown.ok_or_else(|| favourites.strange(&page))
            };
            self.standing(favourites, Method::PUT, &path, id.clone(), shown).await
        };
        Ok(shows(each(stores.keys(), ask).await?))
    }

    /// What ads shows of every store that the owner ever had, while it has a campaign in a region of its own. The name of
    /// a store that is closed is not to be seen.
    async fn advertised(&self, ads: &Asked, stores: &Entities) -> Result<Shows, String> {
        let ask = async |id: EntityId| {
            let now = clock::now();
            // What an interrupted look left behind is in another.
            let region = format!("{} {}", now.unix_micros(), subject::encode_token(&id));
            let campaign = json!({
                "store_id": id, "region": region, "budget": 1, "from": now, "until": LATER,
            });
            let request = self.http.post(format!("{}/campaigns", ads.url)).json(&campaign);
            let answer = ads.send(request).await?;
            let (status, answer) = (answer.status().as_u16(), ads.body::<Value>(answer).await?);
            match (status, answer["errors"][0]["detail"].as_str(), answer["id"].as_str()) {
                (422, Some("no store with this ID is known"), _) => Ok(None),
                (422, Some("the store was deleted"), _) => Ok(Some((id, Shown::Deleted))),
                (201, _, Some(campaign)) => {
                    let shown = self.advertisement(ads, &region, campaign).await?;
                    self.delete(ads, &format!("/campaigns/{campaign}")).await?;
                    Ok(Some((id, shown)))
                }
                _ => Err(ads.strange(&answer)),
            }
        };
        Ok(shows(each(stores.keys(), ask).await?))
    }

    /// What is to be seen of a store that exists, by its campaign.
    async fn advertisement(
        &self,
        ads: &Asked,
        region: &str,
        campaign: &str,
    ) -> Result<Shown, String> {
        let request = self.http.get(format!("{}/ads", ads.url));
        let found: Value = ads.json(request.query(&[("region", region)])).await?;
        let item = ads.items(&found)?.iter().find(|item| item["campaign"] == campaign);
        let mut fields = Map::from_iter([("open".to_owned(), item.is_some().into())]);
        fields.extend(item.map(|item| ("name".to_owned(), item["name"].clone())));
        let of = if item.is_some() { STANDING_FIELDS } else { &["open"] };
        Ok(Shown::Live { version: None, fields, of })
    }

    /// How a store stands with a service that answers 404 for one that it does not know, and 410 for a deleted one.
    async fn standing(
        &self,
        asked: &Asked,
        method: Method,
        path: &str,
        id: EntityId,
        shown: impl AsyncFnOnce(Response) -> Result<Shown, String>,
    ) -> Result<Option<(EntityId, Shown)>, String> {
        let request = self.http.request(method, format!("{}{path}", asked.url));
        let answer = asked.send(request).await?;
        match answer.status().as_u16() {
            404 => Ok(None),
            410 => Ok(Some((id, Shown::Deleted))),
            200..300 => Ok(Some((id, shown(answer).await?))),
            _ => Err(asked.refusal(answer).await),
        }
    }

    async fn delete(&self, asked: &Asked, path: &str) -> Result<(), String> {
        let answer = asked.send(self.http.delete(format!("{}{path}", asked.url))).await?;
        match answer.status().as_u16() {
            204 => Ok(()),
            _ => Err(asked.refusal(answer).await),
        }
    }
}

/// Of a service that tells deleted stores from unknown ones.
fn shows(stores: Vec<Option<(EntityId, Shown)>>) -> Shows {
    Shows { deleted: true, stores: stores.into_iter().flatten().collect() }
}

fn id_of(store: &Value) -> Option<EntityId> {
    EntityId::new(store["id"].as_str()?).ok()
}

fn live(store: &Value, of: &'static [&'static str]) -> Option<Shown> {
    let version = store["version"].as_u64();
    Some(Shown::Live { version, fields: store.as_object()?.clone(), of })
}

fn holds_only(store: &Value, fields: &[&str]) -> bool {
    store.as_object().is_some_and(|all| all.keys().all(|key| fields.contains(&key.as_str())))
}
