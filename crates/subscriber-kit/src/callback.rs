//! The way back to an owner.

pub mod breaker;
pub mod owner_client;
