//! For services that keep a copy of another service's entities.
#![doc = include_str!("../README.md")]

mod acknowledge;
mod admin;
mod apply;
mod batch;
pub mod breaker;
mod dead_letter;
mod ending;
mod events;
mod intake;
mod jetstream;
pub mod outcome;
pub mod owner_client;
mod position;
mod progress;
mod recent;
mod reentry;
mod retry;
mod settings;
pub mod source;
mod subscriber;
mod tables;
mod wait;
mod wait_layer;
pub mod work_queue;
mod worker;

pub use apply::{Apply, EntityState};
pub use dead_letter::DeadLetter;
pub use events::{Event, EventKind};
pub use retry::RetryPolicy;
pub use settings::Settings;
pub use subscriber::{Builder, StartError, Subscriber};
pub use wait::AppliedVersion;

// What a service's `main` needs besides, so that it depends on this crate alone.
pub use nudge_protocol as protocol;
pub use nudge_runtime as runtime;
