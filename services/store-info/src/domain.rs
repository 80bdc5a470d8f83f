//! What a store is and how it may change. Pure: no I/O, no clock, no randomness.
//!
//! | module | what it decides |
//! |---|---|
//! | [`store`] | the fields of a store and their limits |
//! | [`read`] | JSON to a store |
//! | [`fault`] | everything that is wrong with it |
//! | [`merge_patch`] | RFC 7396 |
//! | [`decide`] | what a request does: save, delete, keep, refuse |
//! | [`import`] | what a batch of imported stores changes |

pub mod decide;
pub mod fault;
pub mod import;
pub mod merge_patch;
pub mod read;
pub mod store;

pub use decide::{Condition, Decision, Effect, Found, Refusal};
pub use fault::{Fault, Invalid};
pub use read::GivenId;
pub use store::{Menu, Store};
