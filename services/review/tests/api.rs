//! The service over HTTP, in this process: a database of its own, no NATS, and an owner of stores
//! that must never be called.

mod bad_input;
mod changing;
mod listing;
mod subscribers_view;
mod support;
mod writing;
