//! Keeps a copy of another service's entities in step with their owner.
#![doc = include_str!("../README.md")]

mod apply;
mod callback;
mod http;
mod intake;
mod mirror;
mod read_model;
mod resync;
mod retry;
mod service;
mod settings;
mod subscriber;
mod telemetry;
pub mod testing;
mod work;

// What the author of a service writes, and what runs it.
pub use apply::{Apply, EntityState, MAX_READ_ROWS};
pub use http::openapi;
pub use intake::cloud_events::CloudEvents;
pub use mirror::{Mirror, TableError};
pub use retry::RetryPolicy;
pub use service::{Running, Service, Started};
pub use settings::{Limits, MAX_UNUSED_AFTER, MIN_UNUSED_AFTER, ResyncSettings, Settings};
pub use subscriber::{Builder, StartError, Subscriber};

// The ports, for tests and simulations.
/// Calls of a service's own to other services.
pub use callback::outgoing;
pub use intake::source;
/// The port to an owner: HTTP in production, simulated in tests.
pub mod owner_client {
    pub use crate::callback::{
        http_owner::{HttpOwner, read_answer, refusal},
        owner_client::*,
    };
}

// The other crates that a service uses, in matching versions, so that it depends on this crate alone. (And on
// serde, because its derive refers to the crate by name.)
pub use axum;
pub use nudge_protocol as protocol;
pub use nudge_runtime as runtime;
pub use serde_json;
pub use sqlx;
pub use tokio;
pub use utoipa;
pub use utoipa_axum;

/// For this repository's fuzzers and benchmarks. Not part of the API.
#[doc(hidden)]
pub mod internals {
    use std::time::Instant;

    use nudge_protocol::{EntityId, Timestamp, Version};

    pub use crate::{
        resync::{Compared, Comparer, Difference, Ours, Rows},
        work::outcome,
    };
    use crate::{
        settings::Settings,
        work::{
            queue::WorkQueue,
            run::{Heard, Lane, Work},
        },
    };

    /// Lets keys pass through a work queue, each as often as it is among them. Returns the number of runs.
    pub fn pass_through_the_queue(keys: &[EntityId]) -> usize {
        let (settings, now) = (Settings::default(), Instant::now());
        let heard = Heard::message(Timestamp::from_unix_micros(0), 1, None);
        let mut queue = WorkQueue::new(settings.queue);
        for (token, key) in keys.iter().enumerate() {
            let (lane, floor) = (Lane::Backlog, Version::NONE);
            let (token, unsure, attempts) = (Some(token), false, 0);
            queue.push(key.clone(), Work { lane, token, floor, unsure, attempts, heard }, now);
        }
        let mut passed = 0;
        loop {
            let runs = queue.take(settings.max_batch_keys, |_| true, now);
            if runs.is_empty() {
                return passed;
            }
            runs.iter().for_each(|run| queue.done(&run.id, now));
            passed += runs.len();
        }
    }
}
