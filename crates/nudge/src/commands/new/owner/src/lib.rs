//! The service `my-service`, the owner of `my-entity`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`item`] | what an entity is, and which are valid |
//! | [`storage`] | the table, and one transaction for each write |
//! | [`http`] | the endpoints for those who edit; subscribers have the sync API |

pub mod http;
pub mod item;
pub mod storage;

use nudge_publisher::{Publisher, sync_api};
use nudge_subscriber_kit::{
    Service, Started, protocol::EntityName, runtime::BoxError, utoipa_axum::router::OpenApiRouter,
};

/// The kind of entity that this service owns: in tokens, in paths, and in the name of its stream.
pub const ENTITY: &str = "my-entity";

/// The service: what it is called, where it listens, what it keeps and what it serves.
///
/// To follow an entity of another service, add a `follow`: see `Service`.
pub fn service() -> Service {
    let documents = [http::routes().into_openapi(), sync_api::openapi(&entity())];
    Service::new("my-service")
        .about("Owns my-entity", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:my-port")
        .keeps("my-service", storage::MIGRATIONS)
        .owns(ENTITY)
        .part(documents, start)
}

/// Publishes each change, and serves two APIs: the service's own, and that for callbacks.
async fn start(at: Started) -> Result<OpenApiRouter, BoxError> {
    let publisher = Publisher::open(&at.database, entity()).await?;
    let publisher = publisher.traces(&at.traces).budget(at.callback_budget);
    at.subscriber.with_registry(|registry| publisher.register_metrics(registry));
    let relay = publisher.spawn_relay(&at.broker, at.stop.clone());
    at.spawn(async { drop(relay.await) });
    let items = storage::Items::new(at.database.clone(), publisher.clone());
    let own = http::routes().with_state(items.clone());
    Ok(own.merge(publisher.openapi_router(items)))
}

/// [`ENTITY`], checked.
pub fn entity() -> EntityName {
    EntityName::new(ENTITY).expect("a valid name")
}
