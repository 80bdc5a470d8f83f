//! The favourites service: users keep stores.
//!
//! It owns its users' lists, and follows stores. A list holds only IDs: the name of a store, and whether it is open, come
//! from this service's own copy of the stores, at the moment somebody reads the list. So a store that is deleted is gone
//! from every list, and is back in them with the store.
//!
//! | module | what it contains |
//! |---|---|
//! | [`favourites`] | the operations on lists, and their SQL |
//! | [`http`] | the endpoints |
//! | [`openapi`] | the head of their OpenAPI document |

pub mod favourites;
pub mod http;
pub mod openapi;

use nudge_subscriber_kit::{Mirror, Service};
use serde::{Deserialize, Serialize};

use favourites::Favourites;

/// The fields of a store that this service reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreState {
    /// Its name.
    pub name: String,
    /// Whether it takes orders.
    pub open: bool,
}

/// The table of known stores. It keeps deleted ones, to tell them apart from unknown ones.
pub fn stores() -> Mirror<StoreState> {
    Mirror::table("known_store").mark_deleted("deleted")
}

/// The service.
pub fn service() -> Service {
    Service::new("favourites")
        .about("Keeps the favourite stores of users", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7105")
        .keeps(favourites::COMPONENT, favourites::MIGRATIONS)
        .follow("store", "http://127.0.0.1:7101", stores())
        .document_head(openapi::head())
        .routes(http::routes(), |at| Favourites::new(at.database.clone()))
}
