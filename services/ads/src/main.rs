//! The `ads` program. `ads openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    ads::service().run()
}
