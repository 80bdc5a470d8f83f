//! What every Nudge program needs around its own purpose. No rule of the protocol lives here.
//!
//! | module | what it gives |
//! |---|---|
//! | [`database`] | one handle for SQLite and PostgreSQL, its transactions, its migrations |
//! | [`set_sql`] | one JSON parameter as a set of rows, on both databases |
//! | [`broker`] | a NATS connection that says when it was (re)made and what went wrong |
//! | [`problem`] | RFC 9457 errors |
//! | [`body`] | JSON bodies with limits and errors that name the field |
//! | [`path`] | ids in paths |
//! | [`paging`] | how many rows a page may hold, and where the next begins |
//! | [`openapi`] | documents that come from the routers they describe |
//! | [`program`] | the `main` of a service |
//! | [`serve`] | a loopback listener with graceful stop |
//! | [`logs`] | logs in which text from outside stays text |
//! | [`private`] | files that nobody else may read |
//! | [`args`] | flags and environment, with one-line errors |
//! | [`clock`] | what time it is, also in a simulation |
//! | [`mutation`] | wrong turns that the code can be made to take, for the simulation to find |

pub mod args;
pub mod body;
pub mod broker;
pub mod clock;
pub mod database;
pub mod logs;
pub mod mutation;
pub mod openapi;
pub mod paging;
pub mod path;
pub mod private;
pub mod problem;
pub mod program;
pub mod serve;
pub mod set_sql;

pub use broker::Broker;
pub use database::{Database, Tx};
pub use problem::Problem;

/// Any error, as service authors return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
