//! Everything that can go wrong with a server, during continuous edits. Each test breaks one thing, repairs it, waits
//! for convergence and compares everything; `make faults` prints the costs of each.
//!
//! | module | what fails |
//! |---|---|
//! | `owner` | the owner's sync API |
//! | `broker` | NATS, the connection to it, its stream and consumer, permissions |
//! | `database` | the database of the owner or of the read model |
//! | `once` | faults of only one kind of database |

mod broker;
mod database;
mod once;
mod owner;
