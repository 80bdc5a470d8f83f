//! The `charging-stations` program. `charging-stations openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    charging::stations::service().run()
}
