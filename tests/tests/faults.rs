//! Everything that a server can do to us, while edits go on. Each test breaks one thing, mends it,
//! waits for convergence and compares everything; `make faults` prints what each cost.
//!
//! | module | what fails |
//! |---|---|
//! | `owner` | the owner's sync API |
//! | `broker` | NATS, the way to it, its stream and consumer, permissions |
//! | `database` | the database of the owner, or of the read model |
//! | `once` | what only one kind of database does |

mod broker;
mod database;
mod once;
mod owner;
