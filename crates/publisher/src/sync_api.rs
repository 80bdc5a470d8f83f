//! The sync API: the routes for callbacks, under `/sync/v1/{entity}`.
//!
//! The router opens one read transaction per request, reads the versions in it, and hands it to
//! the owner for the states, so that state and version are one snapshot.

mod change_log;
mod digest;
pub mod document;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nudge_protocol::{
    EntityId, EntityName, Object,
    sync_api::{
        BatchGetAnswer, BatchGetRequest, DEFAULT_ITEMS_LIMIT, DeletedEntity, Item, ItemStatus,
        ItemVersion, ItemsPage, ItemsRequest, LiveEntity, MAX_ITEMS_LIMIT,
    },
};
use nudge_runtime::{
    BoxError, Problem, Tx,
    body::Json,
    openapi::{may_answer, operations},
    paging::{PageSize, cut},
    path::PathId,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Notify;
use utoipa::{OpenApi as _, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    allowance::Allowance,
    budget::{Asker, AskerHeaders, Budget, ROWS_PER_ENTITY},
    change_log::{ChangeLog, Recorded},
    conditional::{IfNoneMatch, etag, if_none_match},
    metrics::Metrics,
    sink::Outlet,
    tombstones,
};

/// States in one batch-get answer, in bytes, before the rest is left for the next call.
pub const MAX_BATCH_STATE_BYTES: usize = 8 * 1024 * 1024;

/// Rows in one answer to `items`.
const PAGE: PageSize = PageSize { default: DEFAULT_ITEMS_LIMIT, max: MAX_ITEMS_LIMIT };

/// Entities that exist but whose rows an owner cannot read: the error of [`Owner::states`] that does not affect other
/// entities.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct Unreadable {
    /// The entities.
    pub ids: Vec<EntityId>,
    /// What is wrong, for the log and for requests for one of them alone.
    pub problem: String,
}

/// The owner's side of a callback.
///
/// ```
/// use nudge_protocol::EntityId;
/// use nudge_publisher::Owner;
/// use nudge_runtime::{BoxError, Tx, database::Kind, set_sql::strings};
///
/// #[derive(serde::Serialize)]
/// struct Charger {
///     in_use: bool,
/// }
///
/// struct Chargers;
///
/// impl Owner for Chargers {
///     type State = Charger;
///
///     async fn states(&self, tx: &mut Tx, ids: &[EntityId]) -> Result<Vec<(EntityId, Charger)>, BoxError> {
///         let ids_sql = strings(Kind::of(tx), "$1");
///         let sql = format!("SELECT id, in_use FROM charger WHERE id IN {ids_sql}");
///         let rows: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
///             .bind(serde_json::to_string(ids)?)
///             .fetch_all(&mut **tx)
///             .await?;
///         let state = |(id, in_use): (String, i64)| Ok((EntityId::new(&id)?, Charger { in_use: in_use == 1 }));
///         rows.into_iter().map(state).collect()
///     }
/// }
/// ```
pub trait Owner: Send + Sync + 'static {
    /// The state of one entity, as subscribers get it: a JSON object whose members they ask for by name. An owner
    /// that keeps it as JSON already answers with `Box<serde_json::value::RawValue>`.
    type State: Serialize + Send;

    /// The current states of those of `ids` that exist, in any order, read in `tx` and nowhere
    /// else: the versions were read in the same snapshot.
    ///
    /// # Errors
    /// An error fails the whole request, and subscribers ask again in smaller batches. An owner that knows which
    /// entities it cannot read returns [`Unreadable`], and is asked for the others at once, in the same
    /// transaction. Only a request for an unreadable one alone is answered with an error.
    fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> impl Future<Output = Result<Vec<(EntityId, Self::State)>, BoxError>> + Send;
}

/// [`Owner`] without its type: utoipa cannot describe handlers with a type parameter.
trait States: Send + Sync {
    fn states<'a>(&'a self, tx: &'a mut Tx, ids: &'a [EntityId]) -> Reading<'a>;
}

type Reading<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<(EntityId, Box<RawValue>)>, BoxError>> + Send + 'a>>;

impl<O: Owner> States for O {
    fn states<'a>(&'a self, tx: &'a mut Tx, ids: &'a [EntityId]) -> Reading<'a> {
        Box::pin(async move {
            let (mut states, mut ids_unreadable, mut problem) = (Vec::new(), Vec::new(), None);
            for (id, state) in Owner::states(self, tx, ids).await? {
                match to_raw_value(&state) {
                    Ok(state) => states.push((id, state)),
                    Err(error) => {
                        problem =
                            Some(format!("the state of {id} cannot be written as JSON: {error}"));
                        ids_unreadable.push(id);
                    }
                }
            }
            match problem {
                Some(problem) => Err(Unreadable { ids: ids_unreadable, problem }.into()),
                None => Ok(states),
            }
        })
    }
}

struct Api {
    log: ChangeLog,
    owner: Box<dyn States>,
    metrics: Metrics,
    budget: Budget,
    /// Wakes the relay.
    wake: Arc<Notify>,
    /// Where it publishes.
    outlet: Outlet,
    allowance: Mutex<Allowance>,
}

pub(crate) fn router<O: Owner>(
    log: ChangeLog,
    owner: O,
    (metrics, budget): (Metrics, Budget),
    wake: Arc<Notify>,
    outlet: Outlet,
) -> OpenApiRouter {
    let routes = routes(log.entity());
    let (owner, allowance) = (Box::new(owner), Mutex::default());
    routes.with_state(Arc::new(Api { log, owner, metrics, budget, wake, outlet, allowance }))
}

/// The OpenAPI document of the routes of an owner of this kind of entity: those for callbacks and for operators.
pub fn openapi(entity: &EntityName) -> OpenApi {
    let mut document = routes(entity).into_openapi();
    document.merge(tombstones::routes(entity).into_openapi());
    document
}

fn routes(entity: &EntityName) -> OpenApiRouter<Arc<Api>> {
    let routes = OpenApiRouter::default()
        .routes(routes!(batch_get))
        .routes(routes!(items))
        .routes(routes!(digest::digest))
        .routes(routes!(digest::recent))
        .routes(routes!(digest::renew))
        .routes(routes!(change_log::change_log))
        .routes(routes!(get_one))
        // These words are also valid IDs: only POST means something else there.
        .route("/batch-get", get(get_one))
        .route("/items", get(get_one))
        .route("/digest", get(get_one))
        .route("/recent", get(get_one))
        .route("/renew", get(get_one))
        .route("/change-log", get(get_one));
    let mut about =
        OpenApiRouter::with_openapi(About::openapi()).nest(&format!("/sync/v1/{entity}"), routes);
    for operation in operations(about.get_openapi_mut()) {
        let why =
            "More is asked for than the owner's budget: `Retry-After` says when to come again";
        may_answer(operation, "429", why);
    }
    about
}

#[derive(utoipa::OpenApi)]
#[openapi(tags((name = "sync", description = "Callbacks, for subscribers")))]
struct About;

/// Up to 512 entities with their versions
///
/// All from one snapshot. May return fewer than asked, but never none: ask again for the rest.
#[utoipa::path(post, path = "/batch-get", operation_id = "syncBatchGet", tag = "sync",
request_body = BatchGetRequest, params(AskerHeaders), responses(
    (status = 200, description = "What is known about each, in any order", body = BatchGetAnswer),
))]
async fn batch_get(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(request)): Json<Object<BatchGetRequest>>,
) -> Result<Response, Problem> {
    request.check().map_err(|error| Problem::field(error.field(), error.to_string()))?;
    let (mut ids, mut known) = (request.ids, HashSet::new());
    // In the order asked for: a subscriber then decides which of them come first.
    ids.retain(|id| known.insert(id.clone()));
    let turn = api.budget.turn(&asker, ids.len()).await?;
    ids.truncate(turn.granted);
    let Snapshot { recorded, mut states, unreadable } = api.snapshot(&ids).await?;
    let mut bytes = 0;
    let mut items = Vec::with_capacity(ids.len());
    for id in ids.into_iter().filter(|id| !unreadable.contains(id)) {
        let state = states.remove(&id);
        bytes += state.as_ref().map_or(0, |state| state.get().len());
        if bytes > MAX_BATCH_STATE_BYTES && !items.is_empty() {
            break;
        }
        items.push(item(id, &recorded, state, request.fields.as_deref())?);
    }
    Ok((turn, no_store(axum::Json(BatchGetAnswer { items }))).into_response())
}

/// The version of every entity, page by page
///
/// In bytewise order of IDs, including tombstones.
#[utoipa::path(post, path = "/items", operation_id = "syncItems", tag = "sync",
request_body = ItemsRequest, params(AskerHeaders), responses(
    (status = 200, description = "A page", body = ItemsPage),
))]
async fn items(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(request)): Json<Object<ItemsRequest>>,
) -> Result<Response, Problem> {
    let limit = PAGE.rows(request.limit);
    let limit = limit.map_err(|error| Problem::field("limit", error.to_string()))?;
    let turn = api.budget.whole_turn(&asker, limit.div_ceil(ROWS_PER_ENTITY)).await?;
    let look = || async {
        let mut tx = api.log.db().snapshot().await?;
        api.log.page(&mut tx, request.after.as_ref(), limit + 1).await
    };
    let mut page = api.log.db().run_afresh(look).await?;
    let next = cut(&mut page, limit, |(id, _)| id.clone());
    let row = |(id, row): (EntityId, Recorded)| ItemVersion {
        id,
        version: row.version,
        deleted: row.deleted,
        changed_at: row.changed_at,
    };
    let items = page.into_iter().map(row).collect();
    Ok((turn, no_store(axum::Json(ItemsPage { items, next }))).into_response())
}

/// One entity with its version
#[utoipa::path(get, path = "/{id}", operation_id = "syncGet", tag = "sync", params(
    ("id" = EntityId, Path, description = "The entity's ID, percent-encoded"), IfNoneMatch, AskerHeaders,
), responses(
    (status = 200, description = "State and version of one snapshot", body = LiveEntity, headers(
        ("ETag" = String, description = "The version, in quotes"),
    )),
    (status = 304, description = "It still has the version that the request named"),
    (status = 404, description = "It never existed"),
    (status = 410, description = "It was deleted", body = DeletedEntity),
))]
async fn get_one(
    State(api): State<Arc<Api>>,
    PathId(id): PathId<EntityId>,
    asker: Asker,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    api.budget.turn(&asker, 1).await?;
    let Snapshot { recorded, mut states, .. } = api.snapshot(std::slice::from_ref(&id)).await?;
    let state = states.remove(&id);
    let not_found = || Problem::new(StatusCode::NOT_FOUND, "no such entity was ever recorded");
    let row = *recorded.get(&id).ok_or_else(not_found)?;
    let etag = etag(row.version);
    if row.deleted {
        let body = DeletedEntity { id, version: row.version, deleted: true };
        return Ok((StatusCode::GONE, no_store(axum::Json(body))).into_response());
    }
    if if_none_match(&headers).is_some_and(|seen| seen.matches(Some(row.version))) {
        let response = no_store([(header::ETAG, etag)]);
        return Ok((StatusCode::NOT_MODIFIED, response).into_response());
    }
    let state = state.ok_or_else(|| without_state(&id))?;
    let body = LiveEntity { id, version: row.version, changed_at: row.changed_at, state };
    let mut response = no_store(axum::Json(body));
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

impl Api {
    async fn snapshot(&self, ids: &[EntityId]) -> Result<Snapshot, Problem> {
        let look = || async {
            let mut tx = self.log.db().snapshot().await?;
            let recorded = self.log.recorded(&mut tx, ids).await?;
            let (states, unreadable) = match self.owner.states(&mut tx, ids).await {
                Ok(states) => (states, Vec::new()),
                Err(error) => {
                    let unreadable = error.downcast::<Unreadable>()?;
                    let readable = |id: &&EntityId| !unreadable.ids.contains(id);
                    let others: Vec<_> = ids.iter().filter(readable).cloned().collect();
                    if others.is_empty() {
                        return Err(unreadable as BoxError);
                    }
                    (self.owner.states(&mut tx, &others).await?, unreadable.ids)
                }
            };
            let states = states.into_iter().collect();
            Ok::<_, BoxError>(Snapshot { recorded, states, unreadable })
        };
        self.log.db().run_afresh(look).await.map_err(failed)
    }
}

/// What is known about some IDs at one moment.
struct Snapshot {
    recorded: HashMap<EntityId, Recorded>,
    states: HashMap<EntityId, Box<RawValue>>,
    unreadable: Vec<EntityId>,
}

/// The error of the owner's own code: a busy database is distinguished from broken code, as everywhere.
fn failed(error: BoxError) -> Problem {
    let error = match error.downcast::<Unreadable>() {
        Ok(unreadable) => {
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, unreadable.problem);
        }
        Err(error) => error,
    };
    match error.downcast::<sqlx::Error>() {
        Ok(error) => (*error).into(),
        Err(error) => Problem::internal(&*error),
    }
}

fn item(
    id: EntityId,
    recorded: &HashMap<EntityId, Recorded>,
    state: Option<Box<RawValue>>,
    fields: Option<&[String]>,
) -> Result<Item, Problem> {
    let unknown =
        |id| Item { id, status: ItemStatus::Unknown, version: None, changed_at: None, state: None };
    let Some(row) = recorded.get(&id) else {
        return Ok(unknown(id));
    };
    let (status, state) = match (row.deleted, state) {
        (true, _) => (ItemStatus::Deleted, None),
        (false, Some(state)) => (ItemStatus::Live, Some(project(state, fields)?)),
        (false, None) => {
            without_state(&id);
            return Ok(unknown(id));
        }
    };
    let (version, changed_at) = (Some(row.version), Some(row.changed_at));
    Ok(Item { id, status, version, changed_at, state })
}

/// The change log has the entity as live but the owner has no state: a write bypassed `record`.
fn without_state(id: &EntityId) -> Problem {
    tracing::error!(%id, "an entity was removed without being recorded as deleted");
    Problem::new(StatusCode::NOT_FOUND, "the entity has no state")
}

/// Keeps the named top-level fields of a state, their text untouched.
fn project(state: Box<RawValue>, fields: Option<&[String]>) -> Result<Box<RawValue>, Problem> {
    let Some(fields) = fields else {
        return Ok(state);
    };
    let parsed: Result<BTreeMap<String, &RawValue>, _> = serde_json::from_str(state.get());
    let mut all = parsed.map_err(|error| Problem::internal(&error))?;
    all.retain(|name, _| fields.contains(name));
    serde_json::value::to_raw_value(&all).map_err(|error| Problem::internal(&error))
}

fn no_store(body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document() {
        let entity = EntityName::new("charger").unwrap();
        let stray = nudge_runtime::openapi::stray_paths(routes(&entity));
        assert!(stray.is_empty(), "{stray:?}");
        let document = routes(&entity).into_openapi();
        let paths: Vec<_> = document.paths.paths.keys().map(String::as_str).collect();
        let base = "/sync/v1/charger";
        assert_eq!(
            paths,
            ["batch-get", "change-log", "digest", "items", "recent", "renew", "{id}"]
                .map(|path| format!("{base}/{path}"))
        );
    }
}
