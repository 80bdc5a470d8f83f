//! Tests of both services from outside, in one program.

mod hot_keys;
mod map;
mod simulation;
mod stations;
mod support;
