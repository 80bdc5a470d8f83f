//! The simulation from outside, in one program.

mod altered;
mod documents;
mod names;
mod restored;
mod stream;
mod subscriber;
mod things;
