//! The query-only model of stores: text and filters in, ids of matching stores out.
//!
//! It owns nothing. The subscriber kit hears from the owner of stores that one has changed, asks
//! for its current state and hands it to [`read_model::Stores`], which keeps what can be searched.
//! A search reads that read model alone and never calls anyone.
//!
//! | module | |
//! |---|---|
//! | [`store`] | what is kept of a store, and what of it can be searched |
//! | [`bigram`] | text cut so that an index finds part of a Korean word |
//! | [`query`], [`cursor`] | what a request asks for, and where a page ended |
//! | [`read_model`] | all SQL: tables, apply, find |
//! | [`http`], [`openapi`] | the edge |
//!
//! The first three are pure; the rest is a thin shell around them.

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
        .about("Search of stores: `GET /stores?q=`", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7102")
        .follow("store", "http://127.0.0.1:7101", read_model::Stores)
        .document_head(openapi::head())
        .routes(http::routes(), |at| at.database.clone())
}
