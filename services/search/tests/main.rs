//! Tests of the service from outside, in one program.

mod read_model;
mod simulation;
