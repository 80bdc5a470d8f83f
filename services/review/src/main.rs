//! The program `review`. `review openapi` prints its OpenAPI document.

use std::{env, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    review::program(env::args_os().collect()).await
}
