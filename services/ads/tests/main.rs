//! Tests of the service from outside, in one program.

mod bad_input;
mod campaigns;
mod simulation;
mod support;
