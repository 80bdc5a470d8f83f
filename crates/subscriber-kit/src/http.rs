//! What a subscriber offers at its port.

mod admin;
mod wait_layer;
