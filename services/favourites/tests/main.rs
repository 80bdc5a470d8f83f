//! Tests of the service from outside, in one program.

mod lists;
mod simulation;
