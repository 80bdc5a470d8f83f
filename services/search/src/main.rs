//! The program `search`. `search openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    search::service().run()
}
