//! The service as its users meet it: started in this process on a database of its own, spoken to
//! over HTTP. NATS is unreachable throughout, which must hold up nothing here.

mod bad_input;
mod conditional;
mod document;
mod ids;
mod import;
mod patch;
mod start;
mod stores;
mod support;
mod sync_api;
mod unreadable;
