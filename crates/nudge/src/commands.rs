//! The verbs, one module each.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod breaking;
pub(crate) mod conformance;
pub(crate) mod console;
pub(crate) mod dead_letters;
pub(crate) mod import;
pub(crate) mod nats_config;
pub(crate) mod new;
pub(crate) mod pause;
pub(crate) mod resync;
pub(crate) mod review;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod tombstones;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod why;
mod written;
