//! The way back to an owner: its client, and what is done while it fails.

pub mod breaker;
pub(crate) mod http_owner;
pub(crate) mod owner_client;
pub(crate) mod owner_link;
mod witness;
