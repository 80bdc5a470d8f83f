//! The sync API: what callbacks ask, under `/sync/v1/{entity}`.
//!
//! The router opens one read transaction per request, reads the versions in it, and hands it to
//! the owner for the states, so that state and version are one snapshot.

use std::{collections::HashMap, future::Future, sync::Arc};

use axum::{
    Router,
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nudge_protocol::{
    EntityId, Object, subject,
    sync_api::{
        BatchGetAnswer, BatchGetRequest, DEFAULT_ITEMS_LIMIT, DeletedEntity, Item, ItemStatus,
        ItemVersion, ItemsPage, ItemsRequest, LiveEntity, MAX_ITEMS_LIMIT,
    },
};
use nudge_runtime::{BoxError, Problem, Tx, body::Json};
use serde_json::value::RawValue;

use crate::{
    change_log::{ChangeLog, Recorded},
    conditional::{etag, if_none_match},
};

/// States answered in one batch-get, in bytes, before the rest is left for the next call.
pub const MAX_BATCH_STATE_BYTES: usize = 8 * 1024 * 1024;

/// The owner's side of a callback.
pub trait Owner: Send + Sync + 'static {
    /// The current states of those of `ids` that exist, in any order, read in `tx` and nowhere
    /// else: the versions were read in the same snapshot.
    fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> impl Future<Output = Result<Vec<(EntityId, Box<RawValue>)>, BoxError>> + Send;
}

struct Api<O> {
    log: ChangeLog,
    owner: O,
}

pub(crate) fn router<O: Owner>(log: ChangeLog, owner: O) -> Router {
    let base = format!("/sync/v1/{}", log.entity());
    Router::new()
        // Both words are ids too: only POST means something else there.
        .route(&format!("{base}/batch-get"), post(batch_get::<O>).get(get_one::<O>))
        .route(&format!("{base}/items"), post(items::<O>).get(get_one::<O>))
        .route(&format!("{base}/{{id}}"), get(get_one::<O>))
        .with_state(Arc::new(Api { log, owner }))
}

async fn batch_get<O: Owner>(
    State(api): State<Arc<Api<O>>>,
    Json(Object(request)): Json<Object<BatchGetRequest>>,
) -> Result<Response, Problem> {
    request.check().map_err(|error| Problem::field(error.field(), error.to_string()))?;
    let mut ids = request.ids;
    ids.sort();
    ids.dedup();
    let (recorded, mut states) = api.snapshot(&ids).await?;
    let mut bytes = 0;
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        let state = states.remove(&id);
        bytes += state.as_ref().map_or(0, |state| state.get().len());
        if bytes > MAX_BATCH_STATE_BYTES && !items.is_empty() {
            break;
        }
        items.push(item(id, &recorded, state, request.fields.as_deref())?);
    }
    Ok(no_store(axum::Json(BatchGetAnswer { items })))
}

async fn items<O: Owner>(
    State(api): State<Arc<Api<O>>>,
    Json(Object(request)): Json<Object<ItemsRequest>>,
) -> Result<Response, Problem> {
    let limit = request.limit.unwrap_or(DEFAULT_ITEMS_LIMIT);
    if !(1..=MAX_ITEMS_LIMIT).contains(&limit) {
        return Err(Problem::field("limit", format!("must be from 1 to {MAX_ITEMS_LIMIT}")));
    }
    let looking = async {
        let mut tx = api.log.db().snapshot().await?;
        // One more than asked tells whether there is a next page.
        api.log.page(&mut tx, request.after.as_ref(), limit + 1).await
    };
    let mut page = api.log.db().run(looking).await?;
    let more = page.len() > limit;
    page.truncate(limit);
    let row = |(id, row): (EntityId, Recorded)| ItemVersion {
        id,
        version: row.version,
        deleted: row.deleted,
        changed_at: row.changed_at,
    };
    let items: Vec<_> = page.into_iter().map(row).collect();
    let next = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok(no_store(axum::Json(ItemsPage { items, next })))
}

async fn get_one<O: Owner>(
    State(api): State<Arc<Api<O>>>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (recorded, mut states) = api.snapshot(std::slice::from_ref(&id)).await?;
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

type States = HashMap<EntityId, Box<RawValue>>;

impl<O: Owner> Api<O> {
    async fn snapshot(
        &self,
        ids: &[EntityId],
    ) -> Result<(HashMap<EntityId, Recorded>, States), Problem> {
        let looking = async {
            let mut tx = self.log.db().snapshot().await?;
            let recorded = self.log.recorded(&mut tx, ids).await?;
            let states = self.owner.states(&mut tx, ids).await.map_err(failed)?;
            Ok((recorded, states.into_iter().collect()))
        };
        self.log.db().run(looking).await
    }
}

/// The owner's own code failed: busy databases are told from broken code, as everywhere.
fn failed(error: BoxError) -> Problem {
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

/// The change log knows the entity as live and the owner has no state: a write went past `record`.
fn without_state(id: &EntityId) -> Problem {
    tracing::error!(%id, "an entity was removed without being recorded as deleted");
    Problem::new(StatusCode::NOT_FOUND, "the entity has no state")
}

/// Keeps the named top-level fields of a state, their text untouched.
fn project(state: Box<RawValue>, fields: Option<&[String]>) -> Result<Box<RawValue>, Problem> {
    let Some(fields) = fields else {
        return Ok(state);
    };
    let parsed: Result<HashMap<String, Box<RawValue>>, _> = serde_json::from_str(state.get());
    let mut all = parsed.map_err(|error| Problem::internal(&error))?;
    all.retain(|name, _| fields.contains(name));
    serde_json::value::to_raw_value(&all).map_err(|error| Problem::internal(&error))
}

/// The id that ends the path. Not axum's `Path`: two of the routes have no parameter.
struct PathId(EntityId);

impl<S: Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let token = parts.uri.path().rsplit('/').next().unwrap_or_default();
        let id = subject::decode_token(token).map_err(|error| {
            Problem::field("id", error.to_string()).with_status(StatusCode::BAD_REQUEST)
        })?;
        Ok(Self(id))
    }
}

fn no_store(body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
}
