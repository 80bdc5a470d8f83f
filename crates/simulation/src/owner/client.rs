//! One subscriber's connection to the owner, which can fail.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode, header::RETRY_AFTER},
};
use nudge_protocol::{
    EntityId, EntityName, Version,
    digest::{DigestAnswer, DigestRequest, RecentAnswer, RecentRequest, RenewRequest, Renewed},
    sync_api::{BatchGetAnswer, BatchGetRequest, Item, ItemStatus, ItemsPage, ItemsRequest},
};
use nudge_subscriber_kit::owner_client::{
    Asking, FetchError, FetchErrorKind, Fetching, OwnerClient, Probing, read_answer, refusal,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::sleep;
use tower::ServiceExt;

use super::Owner;
use crate::{fault::Fault, followed::Followed, history::Committed, node::Node, world::World};

/// How long a client waits for the owner.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a slow answer is on its way.
const SLOW: Duration = Duration::from_secs(4);
/// Usual time on the way.
const USUAL: Duration = Duration::from_millis(3);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// See the module documentation. Answers are read and judged by the same code as in production.
pub(crate) struct Client {
    pub(crate) node: Arc<Node>,
    pub(crate) owner: Arc<Owner>,
    pub(crate) api: Router,
    pub(crate) followed: Arc<Followed>,
}

impl OwnerClient for Client {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        Box::pin(async move {
            let (node, world) = (&self.node, &self.node.world);
            node.boundary(Fault::CrashBeforeFetch).await;
            ids.iter().for_each(|id| self.followed.asked(&node.name, id.as_str()));
            let names: Vec<_> = ids.iter().map(|id| self.named(id.as_str())).collect();
            world.tell(format!("{} asks for {}", node.name, names.join(", ")));
            sleep(node.usual(USUAL)).await;
            node.alive().await;
            self.fail().await?;
            self.fail_for(ids)?;
            let request = BatchGetRequest::new(ids, fields);
            let body = serde_json::to_vec(&request).map_err(broken)?;
            let mut answer = self.ask(&format!("/sync/v1/{entity}/batch-get"), body).await?;
            let slow = world.strikes(Fault::OwnerSlow);
            sleep(if slow { world.length_of(Fault::OwnerSlow, SLOW) } else { node.usual(USUAL) })
                .await;
            if world.strikes(Fault::OwnerHalf) {
                answer = spoilt(world, &answer);
            }
            let answer: BatchGetAnswer = read_answer(&answer)?;
            let answer = self.other_than(answer.items);
            node.boundary(Fault::CrashAfterFetch).await;
            Ok(answer)
        })
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        Box::pin(async move {
            self.node.alive().await;
            sleep(self.node.usual(USUAL)).await;
            self.fail().await?;
            let request = ItemsRequest { after: None, limit: Some(1) };
            let body = serde_json::to_vec(&request).map_err(broken)?;
            let answer = self.ask(&format!("/sync/v1/{entity}/items"), body).await?;
            read_answer::<ItemsPage>(&answer).map(drop)
        })
    }

    fn digest<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a DigestRequest,
    ) -> Asking<'a, DigestAnswer> {
        Box::pin(self.call(entity, "digest", request))
    }

    fn recent<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RecentRequest,
    ) -> Asking<'a, RecentAnswer> {
        Box::pin(self.call(entity, "recent", request))
    }

    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> Asking<'a, ItemsPage> {
        Box::pin(self.call(entity, "items", request))
    }

    fn renew<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RenewRequest,
    ) -> Asking<'a, Renewed> {
        Box::pin(self.call(entity, "renew", request))
    }
}

fn broken(error: impl std::fmt::Display) -> FetchError {
    FetchError::new(FetchErrorKind::Broken, error.to_string())
}

/// A truncated answer, or an unrelated page.
fn spoilt(world: &World, answer: &Bytes) -> Bytes {
    let cut = world.pick(Fault::OwnerHalf, answer.len() as u64 + 1) as usize;
    match cut == answer.len() {
        true => Bytes::from_static(b"<html>"),
        false => answer.slice(..cut),
    }
}

impl Client {
    /// An ID of the entity, or a call for it, as it stands in stories.
    fn named(&self, what: &str) -> String {
        self.followed.history.named(what)
    }

    /// A call that asks for no states.
    async fn call<Q: Serialize, T: DeserializeOwned>(
        &self,
        entity: &EntityName,
        call: &str,
        request: &Q,
    ) -> Result<T, FetchError> {
        let (node, world) = (&self.node, &self.node.world);
        node.boundary(Fault::CrashBeforeFetch).await;
        world.tell(format!("{} asks for {}", node.name, self.named(call)));
        sleep(node.usual(USUAL)).await;
        node.alive().await;
        self.fail().await?;
        let body = serde_json::to_vec(request).map_err(broken)?;
        let mut answer = self.ask(&format!("/sync/v1/{entity}/{call}"), body).await?;
        let slow = world.strikes(Fault::OwnerSlow);
        sleep(if slow { world.length_of(Fault::OwnerSlow, SLOW) } else { node.usual(USUAL) }).await;
        if world.strikes(Fault::OwnerHalf) {
            answer = spoilt(world, &answer);
        }
        let answer = read_answer(&answer);
        node.boundary(Fault::CrashAfterFetch).await;
        answer
    }

    /// No answer, or a wrong one.
    async fn fail(&self) -> Result<(), FetchError> {
        let world = &self.node.world;
        if self.owner.is_down(world) || !self.node.reaches(&self.owner) {
            return Err(FetchError::new(FetchErrorKind::Unavailable, "connection refused"));
        }
        let mut headers = HeaderMap::new();
        if world.strikes(Fault::OwnerError) {
            return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, &headers));
        }
        if world.strikes(Fault::OwnerBusy) {
            headers.insert(RETRY_AFTER, (1 + world.pick(Fault::OwnerBusy, 4)).into());
            return Err(refusal(StatusCode::TOO_MANY_REQUESTS, &headers));
        }
        if world.strikes(Fault::OwnerTimeout) {
            sleep(FETCH_TIMEOUT).await;
            self.node.alive().await;
            return Err(FetchError::new(FetchErrorKind::Broken, "no answer in time"));
        }
        Ok(())
    }

    /// Fails a call that asks for something the owner cannot answer for.
    fn fail_for(&self, ids: &[EntityId]) -> Result<(), FetchError> {
        let unanswered = self.followed.unanswered.lock();
        match ids.iter().find_map(|id| unanswered.get(id.as_str())) {
            Some(status) => {
                let status = StatusCode::from_u16(*status).expect("a status");
                Err(refusal(status, &HeaderMap::new()))
            }
            None => Ok(()),
        }
    }

    /// The real router answers.
    async fn ask(&self, path: &str, body: Vec<u8>) -> Result<Bytes, FetchError> {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .map_err(broken)?;
        let Ok(response) = self.api.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Err(refusal(parts.status, &parts.headers));
        }
        axum::body::to_bytes(body, MAX_ANSWER_BYTES).await.map_err(broken)
    }

    /// Somebody else may have answered, or less may be answered than was asked for.
    fn other_than(&self, mut items: Vec<Item>) -> Vec<Item> {
        let world = &self.node.world;
        if world.strikes(Fault::OwnerStale) {
            let at = world.length_of(Fault::OwnerStale, world.elapsed());
            let then = |all: &[Committed]| all.iter().filter(|one| one.at <= at).count();
            items = self.earlier(items, then);
        }
        if world.strikes(Fault::OwnerCached) {
            let then =
                |all: &[Committed]| world.pick(Fault::OwnerCached, all.len() as u64 + 1) as usize;
            items = self.earlier(items, then);
        }
        if items.len() > 1 && world.strikes(Fault::OwnerPartial) {
            items.truncate(1 + world.pick(Fault::OwnerPartial, items.len() as u64 - 1) as usize);
        }
        items
    }

    /// The same IDs after this many of their versions.
    fn earlier(&self, items: Vec<Item>, then: impl Fn(&[Committed]) -> usize) -> Vec<Item> {
        let history = self.followed.history.versions();
        let item = |Item { id, .. }: Item| {
            self.followed.mislead(id.as_str());
            let versions = history.of(id.as_str());
            let then = then(versions).checked_sub(1).and_then(|at| versions.get(at));
            let state = then.and_then(|then| then.state.as_ref());
            Item {
                id,
                status: match (then, state) {
                    (None, _) => ItemStatus::Unknown,
                    (_, None) => ItemStatus::Deleted,
                    (_, Some(_)) => ItemStatus::Live,
                },
                version: then.and_then(|then| Version::new(then.version).ok()),
                changed_at: None,
                state: state.and_then(|state| serde_json::value::to_raw_value(state).ok()),
            }
        };
        items.into_iter().map(item).collect()
    }
}
