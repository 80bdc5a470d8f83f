//! The simulation from outside, in one program.

mod documents;
mod names;
mod things;
