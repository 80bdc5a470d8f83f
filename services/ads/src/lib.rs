//! The ads service: campaigns for stores.
//!
//! It owns campaigns, and follows stores. A campaign names a store; whether that store exists and takes orders is read from
//! this service's own copy, at the moment somebody asks for ads. So a store that is closed is not advertised from the moment
//! its change is applied here, and is again once it opens.
//!
//! | module | what it contains |
//! |---|---|
//! | [`campaign`] | what a campaign is. Pure |
//! | [`campaigns`] | the operations on campaigns, and their SQL |
//! | [`http`] | the endpoints |
//! | [`openapi`] | the head of their OpenAPI document |

pub mod campaign;
pub mod campaigns;
pub mod http;
pub mod openapi;

use nudge_subscriber_kit::{Mirror, Service};
use serde::{Deserialize, Serialize};

use campaigns::Campaigns;

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
    Service::new("ads")
        .about("Chooses which stores to advertise", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7106")
        .keeps(campaigns::COMPONENT, campaigns::MIGRATIONS)
        .follow("store", "http://127.0.0.1:7101", stores())
        .document_head(openapi::head())
        .routes(http::routes(), |at| Campaigns::new(at.database.clone()))
}
