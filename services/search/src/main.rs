//! The program `search`. `search openapi` prints its OpenAPI document.

use std::process::ExitCode;

use nudge_runtime::{args::parse_or_exit, problem::chain, serve::stop_on_signal};
use search::{Args, openapi, start};

#[tokio::main]
async fn main() -> ExitCode {
    // Before the arguments: printing the document needs no database.
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == "openapi")
    {
        print!("{}", openapi::document());
        return ExitCode::SUCCESS;
    }
    let args = parse_or_exit::<Args>();
    args.service.init_logs();
    match start(&args, stop_on_signal()).await {
        Ok(service) => {
            service.stopped().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
