//! Callbacks: the client for an owner, and what happens while the owner fails.

pub(crate) mod http_owner;
pub mod outgoing;
pub(crate) mod owner_client;
pub(crate) mod owner_link;
pub(crate) mod patient;
mod witness;
