//! What a subscriber offers at its port.

mod admin;
pub mod openapi;
mod wait_layer;
