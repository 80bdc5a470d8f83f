//! The routes that every subscriber has: health, metrics, and `/nudge/v1`.

mod dead_letters;
mod events;
mod health;
mod keys;
mod status;
mod wait;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use nudge_protocol::EntityId;
use nudge_runtime::{
    Problem,
    path::{PathId, parameter},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::subscriber::{Followed, Shared, Subscriber};
pub(super) use wait::not_yet;

type Api = State<Arc<Shared>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: the API of every subscriber",
        version = "1.0.0",
        description = "Health, metrics and `/nudge/v1`. A request to a subscriber's own endpoints may \
            carry a `Nudge-Token`; it then waits up to 2 s until that version is applied.",
    ),
    tags((name = "subscriber", description = "Following the entities of other services")),
)]
struct About;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    let nudge = OpenApiRouter::default()
        .routes(routes!(status::status))
        .routes(routes!(status::pause))
        .routes(routes!(status::resume))
        .routes(routes!(status::resync))
        .routes(routes!(status::certificates))
        .routes(routes!(keys::keys))
        .routes(routes!(wait::applied))
        .routes(routes!(wait::wait))
        .routes(routes!(events::events))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::replay_by_query))
        .routes(routes!(dead_letters::discard_by_query));
    OpenApiRouter::with_openapi(About::openapi()).merge(health()).nest("/nudge/v1", nudge)
}

/// Those of a service that follows nothing.
pub(super) fn health() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::default()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

impl Subscriber {
    /// `/livez`, `/readyz`, `/metrics`, and `/nudge/v1/*` of the contract: `status`, `applied/{entity}/{id}`,
    /// `keys/{entity}`, `wait`, `events`, `dead-letters`, `pause`, `resume`, `resync`, `certificates`.
    pub fn router(&self) -> Router {
        self.openapi_router().into()
    }

    /// [`router`](Self::router) with its OpenAPI document, which is that of
    /// [`openapi::routes`](crate::openapi::routes). A service that follows nothing has no `/nudge/v1`.
    pub fn openapi_router(&self) -> OpenApiRouter {
        let routes = if self.shared.followed.is_empty() { health() } else { routes() };
        routes.with_state(self.shared.clone())
    }
}

/// The entity that a path names, as its index in `Shared::followed`.
struct Place(usize);

impl FromRequestParts<Arc<Shared>> for Place {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let entity: Option<String> = parameter(parts, "entity").await?;
        shared.place_of(&entity.unwrap_or_default()).map(Self)
    }
}

/// The entity and the ID that a path names.
struct Key {
    place: usize,
    id: EntityId,
}

impl FromRequestParts<Arc<Shared>> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let Place(place) = Place::from_request_parts(parts, shared).await?;
        let PathId(id) = PathId::from_request_parts(parts, shared).await?;
        Ok(Self { place, id })
    }
}

impl Shared {
    pub(crate) fn followed(&self, entity: &str) -> Option<&Followed> {
        self.followed.iter().find(|followed| followed.entity.as_str() == entity)
    }

    /// The index of a followed entity.
    fn place_of(&self, entity: &str) -> Result<usize, Problem> {
        let mut followed = self.followed.iter();
        followed.position(|followed| followed.entity.as_str() == entity).ok_or_else(|| {
            let detail = format!("{} does not follow {entity:?}", self.service);
            Problem::new(StatusCode::NOT_FOUND, detail)
        })
    }

    /// Whether notifications can arrive right now. A lost connection shows at once, a lost session on it
    /// only later.
    fn is_connected(&self, followed: &Followed) -> bool {
        if !self.source.is_connected() {
            followed.progress.connected.set(0);
        }
        followed.progress.connected.get() == 1
    }

    fn stopping(&self) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{} is stopping", self.service))
    }
}
