//! Callbacks: the client for an owner, and what happens while the owner fails.

pub mod breaker;
pub(crate) mod http_owner;
pub(crate) mod owner_client;
pub(crate) mod owner_link;
mod witness;
