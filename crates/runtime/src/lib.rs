//! What every Nudge program needs besides its own purpose. It contains no protocol rules.
//!
//! | module | what it gives |
//! |---|---|
//! | [`database`] | one handle for SQLite and PostgreSQL, its transactions, its migrations |
//! | [`set_sql`] | one JSON parameter as a set of rows, on both databases |
//! | [`auth`] | who may do what: tokens, scopes, and the service's own token |
//! | [`broker`] | a NATS connection that reports reconnects and errors |
//! | [`problem`] | RFC 9457 errors |
//! | [`body`] | JSON bodies with limits and errors that name the field |
//! | [`path`] | IDs in paths |
//! | [`paging`] | how many rows a page may hold, and where the next begins |
//! | [`openapi`] | OpenAPI documents generated from routers |
//! | [`program`] | the `main` of a service |
//! | [`serve`] | a listener with graceful stop |
//! | [`logs`] | logs in which text from outside cannot do harm |
//! | [`metrics`] | `/metrics`, and kinds of metrics that its library lacks |
//! | [`private`] | files that nobody else may read |
//! | [`secret`] | settings that are never shown, and the files that they may be in |
//! | [`tasks`] | notes the death of a task that should have run on |
//! | [`args`] | flags and environment, with one-line errors |
//! | [`breaker`] | when to stop calling a service that fails |
//! | [`alerts`] | tells an operator, once, what needs one |
//! | [`clock`] | the current time, also in a simulation |
//! | [`traces`] | what one change went through in every service, for OpenTelemetry |
//! | [`files`] | how many files may be open |
//! | [`mutation`] | faults planted in the code for the simulation to find |

pub mod alerts;
pub mod args;
pub mod auth;
pub mod body;
pub mod breaker;
pub mod broker;
pub mod clock;
pub mod database;
pub mod files;
pub mod logs;
pub mod metrics;
pub mod mutation;
pub mod openapi;
pub mod paging;
pub mod path;
pub mod private;
pub mod problem;
pub mod program;
mod reread;
pub mod secret;
pub mod serve;
pub mod set_sql;
pub mod tasks;
pub mod tls;
pub mod traces;

pub use broker::Broker;
pub use database::{Database, Tx};
pub use problem::Problem;
/// For [`row!`], which crates use that do not name sqlx among their dependencies.
#[doc(hidden)]
pub use sqlx;

/// Any error, as service authors return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
