//! Everything to run, break and examine the demo's programs: for `nudge dev`, `nudge chaos`, and
//! tests.
//!
//! ```text
//! Ports ─► Program, Program, …  ◄── Line ──►  Program     whatever happens to them,
//!              └──────────────── Comparison ─────┘        in the end all are equal
//! ```
//!
//! | module | what it gives |
//! |---|---|
//! | [`service`] | the services of the demo by name |
//! | [`program`] | a program as a process: started, killed, stopped, frozen; and a guard against orphans |
//! | [`mod@line`] | a TCP connection between two programs that can be disturbed |
//! | [`ports`] | ports that nobody else uses |
//! | [`edits`] | edits of stores, at random from a seed |
//! | [`compare`] | compares every copy of every store and review with its owner |
//! | [`nats`] | the NATS server: finding one, starting it, waiting for it |
//! | [`postgres`] | a PostgreSQL server, run by a program that takes commands |
//! | [`servers`] | real servers and databases for one test |
//!
//! Code for programs returns one-line errors for people. Code for tests only panics: that is
//! all of [`servers`], and items documented so in the others.

pub mod compare;
pub mod edits;
pub mod line;
pub mod nats;
pub mod ports;
pub mod postgres;
pub mod program;
pub mod servers;
pub mod service;

pub use compare::Comparison;
pub use line::{Line, Way};
pub use program::Program;
pub use servers::{
    Backup, Nats, PATIENCE, Postgres, QUIET, TestDatabase, database, eventually, logs, script,
    shell, within,
};
pub use service::Service;
