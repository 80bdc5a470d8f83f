//! The program `search`. `search openapi` prints its OpenAPI document.

use std::{env, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    search::program(env::args_os().collect()).await
}
