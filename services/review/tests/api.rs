//! The service over HTTP, in this process: with its own database, without NATS, and with an owner of stores that must
//! never be called.

mod bad_input;
mod changing;
mod listing;
mod subscribers_view;
mod support;
mod writing;
