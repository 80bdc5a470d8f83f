//! The demo's world as something that is run, broken and looked at: by `nudge dev`, by `nudge chaos`, and
//! by tests.
//!
//! ```text
//! Ports ─► Program, Program, …  ◄── Line ──►  Program     whatever happens to them,
//!              └──────────────── Comparison ─────┘        in the end all say the same
//! ```
//!
//! | module | what it gives |
//! |---|---|
//! | [`service`] | the services of the demo by name |
//! | [`program`] | a program as a process: started, killed, stopped, frozen; and a guard against orphans |
//! | [`mod@line`] | a TCP line between two programs, on which things go wrong |
//! | [`ports`] | ports that nobody else takes |
//! | [`edits`] | edits of stores, by chance from a seed |
//! | [`compare`] | whether all say of every store what its owner says |
//! | [`nats`] | the NATS server: which one, how it is started, when it is ready |
//! | [`postgres`] | a PostgreSQL server, run by a program that takes commands |
//! | [`servers`] | real servers and databases of a test's own |
//!
//! What programs use tells what went wrong, in a line for people. What is for tests alone panics; that is
//! all of [`servers`], and what its page says of the others.

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
