//! The routes for operators about tombstones, under `/nudge/v1/tombstones/{entity}`.

use axum::extract::State;
use nudge_protocol::{
    EntityId, EntityName, Object,
    admin::{Flagged, MAX_NEVER_EXISTED_IDS, NeverExisted, StrangerTombstone, StrangerTombstones},
};
use nudge_runtime::{
    Problem,
    body::{Json, Query},
    paging::{PageSize, cut},
};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi as _};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{change_log::ChangeLog, metrics::Metrics};

const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) log: ChangeLog,
    pub(crate) metrics: Metrics,
}

#[derive(utoipa::OpenApi)]
#[openapi(tags((name = "owner", description = "Operating an owner")))]
struct About;

pub(crate) fn routes(entity: &EntityName) -> OpenApiRouter<Desk> {
    let routes = OpenApiRouter::default().routes(routes!(list)).routes(routes!(never_existed));
    let base = format!("/nudge/v1/tombstones/{entity}");
    OpenApiRouter::with_openapi(About::openapi()).nest(&base, routes)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// Start after this ID.
    #[param(value_type = Option<EntityId>, nullable = false)]
    after: Option<EntityId>,
    /// Maximum number of rows.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<usize>,
}

/// Tombstones of IDs that this owner has no record of
///
/// They exist because the stream holds those IDs: somebody made them up, or a restore lost them. Those
/// that an operator has flagged are left out.
#[utoipa::path(get, path = "", operation_id = "strangerTombstones", tag = "owner", params(PageQuery), responses(
    (status = 200, description = "A page", body = StrangerTombstones),
    (status = 400, description = "A parameter is wrong"),
))]
async fn list(
    State(desk): State<Desk>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<StrangerTombstones>, Problem> {
    let limit = PAGE.rows(query.limit);
    let limit = limit.map_err(|error| Problem::parameter("limit", error.to_string()))?;
    let mut rows = desk.log.strangers(query.after.as_ref(), limit + 1).await?;
    let next = cut(&mut rows, limit, |(id, _)| id.clone());
    let items = rows.into_iter().map(|(id, row)| StrangerTombstone {
        id,
        version: row.version,
        made_at: row.changed_at,
    });
    Ok(axum::Json(StrangerTombstones { items: items.collect(), next }))
}

/// Flag tombstones of entities that never existed
///
/// The tombstones stay, with their versions, for this owner's subscribers. Its own API answers as if it did
/// not know the IDs, and they are no longer counted. A later write of such an ID works like any other.
#[utoipa::path(post, path = "/never-existed", operation_id = "neverExisted", tag = "owner",
request_body = NeverExisted, responses(
    (status = 200, description = "Which were flagged, and which were not", body = Flagged),
))]
async fn never_existed(
    State(desk): State<Desk>,
    Json(Object(NeverExisted { ids })): Json<Object<NeverExisted>>,
) -> Result<axum::Json<Flagged>, Problem> {
    if !(1..=MAX_NEVER_EXISTED_IDS).contains(&ids.len()) {
        let detail = format!("must contain 1 to {MAX_NEVER_EXISTED_IDS} IDs");
        return Err(Problem::field("ids", detail));
    }
    let flagged = desk.log.never_existed(&ids).await?;
    tracing::info!(entity = %desk.log.entity(), flagged = flagged.len(), "tombstones are flagged as never existed");
    desk.metrics.stranger_tombstones.set(desk.log.count_strangers().await? as i64);
    let no_tombstone = ids.into_iter().filter(|id: &EntityId| !flagged.contains(id)).collect();
    Ok(axum::Json(Flagged { flagged, no_tombstone }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document() {
        let routes = || routes(&EntityName::new("charger").unwrap());
        let stray = nudge_runtime::openapi::stray_paths(routes());
        assert!(stray.is_empty(), "{stray:?}");
        let document = routes().into_openapi();
        let paths: Vec<_> = document.paths.paths.keys().map(String::as_str).collect();
        let base = "/nudge/v1/tombstones/charger";
        assert_eq!(paths, [base.to_owned(), format!("{base}/never-existed")]);
    }
}
