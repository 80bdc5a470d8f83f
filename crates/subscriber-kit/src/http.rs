//! The HTTP API of a subscriber.

mod admin;
pub mod openapi;
mod wait_layer;
