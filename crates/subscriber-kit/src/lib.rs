//! For services that keep a copy of another service's entities.
#![doc = include_str!("../README.md")]

mod apply;
mod callback;
mod http;
mod intake;
mod mirror;
mod read_model;
mod retry;
mod settings;
mod subscriber;
mod telemetry;
mod work;

// What an author writes, and what runs it.
pub use apply::{Apply, EntityState};
pub use http::openapi;
pub use mirror::{Mirror, TableError};
pub use retry::RetryPolicy;
pub use settings::{Limits, Settings};
pub use subscriber::{Builder, StartError, Subscriber};

// The ports, for tests and simulations.
pub use intake::source;
/// The port to an owner: HTTP in production, simulated in tests.
pub mod owner_client {
    pub use crate::callback::{
        http_owner::{HttpOwner, read_answer, refusal},
        owner_client::*,
    };
}

// What a service's `main` needs besides, so that it depends on this crate alone.
pub use nudge_protocol as protocol;
pub use nudge_runtime as runtime;

/// For this repository's fuzzers. No part of the API.
#[doc(hidden)]
pub mod internals {
    pub use crate::{callback::breaker, work::outcome};
}
