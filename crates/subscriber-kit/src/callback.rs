//! The way back to an owner: its client, and what is done while it fails.

pub mod breaker;
pub mod owner_client;
pub(crate) mod owner_link;
