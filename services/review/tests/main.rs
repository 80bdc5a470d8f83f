//! Tests of the service from outside, in one program.

mod api;
mod simulation;
