//! The program `store-info`. `store-info openapi` prints its OpenAPI document.

use std::{env, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    store_info::program(env::args_os().collect()).await
}
