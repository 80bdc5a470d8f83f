//! The read model and its HTTP endpoint on a real database, without NATS and without an owner.

mod applying;
mod contents;
mod finding;
mod hostile;
mod http;
mod paging;
mod support;
