//! The review service: it owns reviews, and follows stores.
//!
//! ```text
//!            store-info ──► NATS ──► subscriber kit ──► known_store      (read model)
//! author ──► http ──► reviews ──► store known and open? ──► review + change log, one transaction
//!                                                              └──► relay ──► NATS ──► subscribers of reviews
//! ```
//!
//! Whether a store may be reviewed is decided from the copy in this database, in the transaction that
//! writes the review, so store-info may be down. That copy holds a name, a version and two flags.
//!
//! | module | what it contains |
//! |---|---|
//! | [`domain`] | what a review is, and when one may be written |
//! | [`draft`] | parses what an author sent, and reports every invalid field |
//! | [`reviews`] | the operations on reviews, one transaction each |
//! | [`storage`] | the SQL of reviews |
//! | [`stores`] | what is known of stores, and how it is kept in step |
//! | [`http`] | the endpoints |
//! | [`openapi`] | the head of their OpenAPI document |

pub mod domain;
pub mod draft;
pub mod http;
pub mod openapi;
pub mod reviews;
pub mod storage;
pub mod stores;

use nudge_protocol::EntityName;
use nudge_publisher::{Publisher, sync_api};
use nudge_runtime::BoxError;
use nudge_subscriber_kit::{Service, Started, openapi::waits};
use utoipa_axum::router::OpenApiRouter;

use reviews::Reviews;

/// The kind of entity that this service owns.
pub const REVIEW: &str = "review";
/// The kind of entity that it follows.
pub const STORE: &str = "store";

/// The service.
pub fn service() -> Service {
    let mut own = http::routes().into_openapi();
    waits(&mut own);
    Service::new(REVIEW)
        .about("Owns reviews and follows stores", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7103")
        .keeps(storage::COMPONENT, storage::MIGRATIONS)
        .follow(STORE, "http://127.0.0.1:7101", stores::mirror())
        .owns(REVIEW)
        .document_head(openapi::head())
        .part([own, sync_api::openapi(&entity())], owner)
}

/// Publishes and serves reviews: the service's own routes and those of an owner.
async fn owner(at: Started) -> Result<OpenApiRouter, BoxError> {
    let publisher = Publisher::open(&at.database, entity()).await?;
    let publisher = publisher.traces(&at.traces).budget(at.callback_budget);
    at.subscriber.with_registry(|registry| publisher.register_metrics(registry));
    let relay = publisher.spawn_relay(&at.broker, at.stop.clone());
    at.spawn(async { drop(relay.await) });
    let reviews = Reviews::new(at.database.clone(), publisher.clone());
    let own = at.subscriber.wait_layer(http::routes().with_state(reviews.clone()));
    Ok(own.merge(publisher.openapi_router(reviews)))
}

fn entity() -> EntityName {
    EntityName::new(REVIEW).expect("a constant that follows the rules")
}
