//! The `search` program. `search openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    search::service().run()
}
