//! The program `search`. `search openapi` prints its OpenAPI document.

use std::process::ExitCode;

use nudge_runtime::program;
use search::{Args, openapi, start};

#[tokio::main]
async fn main() -> ExitCode {
    let start = async |args: &Args, stop| Ok(start(args, stop).await?.stopped());
    program::run(openapi::document, |args: &Args| &args.service, start).await
}
