//! The command line as people and scripts run it, in one program.

mod bench;
mod broker;
mod conformance;
mod console;
mod dev;
mod exit_status;
mod new_service;
mod permissions;
mod security;
mod service;
