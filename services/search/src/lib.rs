//! The search service: text and filters in, matching stores out.
//!
//! It owns nothing. The subscriber kit learns that a store has changed, asks its owner for the current
//! state and hands that to [`read_model::Stores`], which stores what can be searched. A search reads
//! this read model alone and never calls another service.
//!
//! | module | |
//! |---|---|
//! | [`store`] | which fields of a store are kept, and which can be searched |
//! | [`bigram`] | splits text so that an index finds parts of Korean words |
//! | [`query`], [`cursor`] | what a request asks for, and where a page ends |
//! | [`read_model`] | all SQL: tables, apply, find |
//! | [`http`], [`openapi`] | the endpoint and its document |
//!
//! Everything except the last two rows is pure.

pub mod bigram;
pub mod cursor;
pub mod http;
pub mod openapi;
pub mod query;
pub mod read_model;
pub mod store;

use nudge_subscriber_kit::Service;

/// The service: `GET /stores?q=`.
pub fn service() -> Service {
    Service::new("search")
        .about("Searches stores: `GET /stores?q=`", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7102")
        .follow("store", "http://127.0.0.1:7101", read_model::Stores)
        .document_head(openapi::head())
        .routes(http::routes(), |at| at.database.clone())
}
