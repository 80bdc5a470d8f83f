//! The `charging-map` program. `charging-map openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    charging::map::service().run()
}
