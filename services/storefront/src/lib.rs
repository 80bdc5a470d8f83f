//! The storefront service: what front ends show.
//!
//! It owns nothing, and follows two entities of two owners: stores and reviews. From both it prepares one local view, and
//! answers from that: the page of a store, and lists of stores that another service chose. Neither entity refers to the
//! other in the database, since either may arrive first, be deleted first, and come back.
//!
//! ```text
//! store-info ──► NATS ──► subscriber kit ──► store          ┐
//! review     ──► NATS ──► subscriber kit ──► review, rating ┴─► view ──► page of a store
//!                                                                │
//! search, ads, favourites ──(one request: IDs in order)──► lists ┴─────► list of stores
//! ```
//!
//! | module | what it contains |
//! |---|---|
//! | [`stores`], [`reviews`] | the tables of each entity, and how they are kept in step |
//! | [`view`] | what is read of both: one statement for each question |
//! | [`question`] | what a list is asked of, and how. Pure |
//! | [`source`] | the request to another service: deadline, breaker, limits |
//! | [`lists`] | lists, and what they fall back to |
//! | [`http`], [`graphql`] | the endpoints |
//! | [`openapi`] | the head of their OpenAPI document |

pub mod graphql;
pub mod http;
pub mod lists;
pub mod openapi;
pub mod question;
pub mod reviews;
pub mod source;
pub mod stores;
pub mod view;

use nudge_subscriber_kit::{Service, Started};

use graphql::Api;
use lists::Lists;
use reviews::Reviews;
use source::{Limits, Sources};
use view::View;

/// The service.
pub fn service() -> Service {
    Service::new("storefront")
        .about("Answers what front ends show of stores", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7104")
        .follow("store", "http://127.0.0.1:7101", stores::mirror())
        .follow("review", "http://127.0.0.1:7103", Reviews::new())
        // Pages without ratings are pages, too.
        .subscriber(|builder| builder.optional("review"))
        .calls("search", "http://127.0.0.1:7102")
        .calls("favourites", "http://127.0.0.1:7105")
        .calls("ads", "http://127.0.0.1:7106")
        .reads("/graphql")
        .document_head(openapi::head())
        .routes(http::routes(), api)
}

fn api(at: &Started) -> Api {
    let sources = Sources::new(|source| at.url(source.name()), Limits::default(), &at.credentials);
    let subscriber = at.subscriber.clone();
    let lists =
        Lists::new(View::new(at.database.clone()), sources, move || subscriber.current_at());
    Api::new(lists)
}
