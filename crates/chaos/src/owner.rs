//! The simulated owner: the real publisher and its real sync API, asked through a port that fails.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use nudge_protocol::{
    EntityId, EntityName, Version,
    sync_api::{BatchGetAnswer, BatchGetRequest, Item, ItemStatus},
};
use nudge_runtime::{BoxError, Database, Tx, database::Migration, set_sql};
use nudge_subscriber_kit::owner_client::{
    FetchError, FetchErrorKind, Fetching, OwnerClient, Probing,
};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tower::ServiceExt;

use crate::{check::History, fault::Fault, node::Node, world::lock};

/// How long a client waits for the owner.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a slow answer is on its way.
const SLOW: Duration = Duration::from_secs(4);
/// Longest time that the owner is away.
const LONGEST_OUTAGE: Duration = Duration::from_secs(40);
/// Usual time on the way.
const USUAL: Duration = Duration::from_millis(3);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "entities",
    sqlite: "CREATE TABLE entity (id TEXT PRIMARY KEY, state TEXT NOT NULL)",
    postgres: "CREATE TABLE entity (id TEXT COLLATE \"C\" PRIMARY KEY, state TEXT NOT NULL)",
}];

/// The owner's side of the sync API.
pub(crate) struct Entities(pub(crate) Database);

impl nudge_publisher::Owner for Entities {
    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let ids_sql = set_sql::strings(self.0.kind(), "$1");
        let sql = format!("SELECT id, state FROM entity WHERE id IN {ids_sql}");
        let rows: Vec<(String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(serde_json::to_string(ids)?)
            .fetch_all(&mut **tx)
            .await?;
        let row = |(id, state): (String, String)| {
            Ok((EntityId::new(&id)?, RawValue::from_string(state)?))
        };
        rows.into_iter().map(row).collect()
    }
}

/// One subscriber's way to the owner.
pub(crate) struct Client {
    pub(crate) node: Arc<Node>,
    pub(crate) api: Router,
    pub(crate) history: Arc<Mutex<History>>,
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
            ids.iter().for_each(|id| world.asked(&node.name, id.as_str()));
            let names: Vec<_> = ids.iter().map(EntityId::as_str).collect();
            world.tell(format!("{} asks for {}", node.name, names.join(", ")));
            sleep(world.up_to(USUAL)).await;
            node.alive().await;
            self.fail().await?;
            let answer = match world.strikes(Fault::OwnerStale) {
                true => self.stale(ids),
                false => self.ask(entity, ids, fields).await?,
            };
            let slow = world.strikes(Fault::OwnerSlow);
            sleep(world.up_to(if slow { SLOW } else { USUAL })).await;
            if world.strikes(Fault::OwnerHalf) {
                return Err(FetchError::new(FetchErrorKind::Broken, "the answer is cut"));
            }
            node.boundary(Fault::CrashAfterFetch).await;
            Ok(answer)
        })
    }

    fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
        Box::pin(async move {
            self.node.alive().await;
            sleep(self.node.world.up_to(USUAL)).await;
            self.fail().await
        })
    }
}

impl Client {
    async fn fail(&self) -> Result<(), FetchError> {
        let world = &self.node.world;
        if world.owner_is_down(LONGEST_OUTAGE) || !self.node.reaches_the_owner() {
            return Err(FetchError::new(FetchErrorKind::Unavailable, "connection refused"));
        }
        if world.strikes(Fault::OwnerError) {
            return Err(FetchError::new(FetchErrorKind::Broken, "the owner answered 500"));
        }
        if world.strikes(Fault::OwnerBusy) {
            let error = FetchError::new(FetchErrorKind::Unavailable, "the owner answered 429");
            let retry_after = Some(Duration::from_secs(1 + world.below(4)));
            return Err(FetchError { retry_after, ..error });
        }
        if world.strikes(Fault::OwnerTimeout) {
            sleep(FETCH_TIMEOUT).await;
            self.node.alive().await;
            return Err(FetchError::new(FetchErrorKind::Broken, "no answer in time"));
        }
        Ok(())
    }

    /// The real router answers.
    async fn ask(
        &self,
        entity: &EntityName,
        ids: &[EntityId],
        fields: &[&'static str],
    ) -> Result<Vec<Item>, FetchError> {
        let broken = |error: String| FetchError::new(FetchErrorKind::Broken, error);
        let body = serde_json::to_vec(&BatchGetRequest::new(ids, fields));
        let request = Request::post(format!("/sync/v1/{entity}/batch-get"))
            .header("content-type", "application/json")
            .body(Body::from(body.map_err(|error| broken(error.to_string()))?))
            .map_err(|error| broken(error.to_string()))?;
        let Ok(response) = self.api.clone().oneshot(request).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| broken(error.to_string()))?;
        if !status.is_success() {
            return Err(broken(format!("{status}: {}", String::from_utf8_lossy(&body))));
        }
        let answer: BatchGetAnswer =
            serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))?;
        Ok(answer.items)
    }

    /// What was true at some earlier time, of each id for itself.
    fn stale(&self, ids: &[EntityId]) -> Vec<Item> {
        let world = &self.node.world;
        let history = lock(&self.history);
        let item = |id: &EntityId| {
            let versions = history.of(id.as_str());
            let at = world.below(versions.len() as u64 + 1) as usize;
            let then = at.checked_sub(1).and_then(|at| versions.get(at));
            let state = then.and_then(|then| then.state.as_ref());
            Item {
                id: id.clone(),
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
        ids.iter().map(item).collect()
    }
}
