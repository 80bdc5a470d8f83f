//! Tests on real servers, in one program: one link, and as many side by side as are asked for.

mod admin;
mod async_api;
mod backlog;
mod capture;
mod chaos;
mod connections;
mod contract;
mod convergence;
mod crate_page;
mod dead_letters;
mod delivery;
mod failures;
mod faults;
mod messages;
mod mirror;
mod owner_contract;
mod processes;
mod promises;
mod publisher;
mod read_model;
mod restarts;
mod services;
mod simulation;
mod starts;
mod subscriber_api;
mod tombstones;
