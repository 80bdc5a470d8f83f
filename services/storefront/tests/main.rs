//! Tests of the service from outside, in one program.

mod end_to_end;
mod graphql;
mod lists;
mod pages;
mod simulation;
mod sources;
mod statements;
mod support;
