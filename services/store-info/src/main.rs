//! The program `store-info`. `store-info openapi` prints its OpenAPI document.

use std::{env, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    store_info::program(env::args_os().collect()).await
}
