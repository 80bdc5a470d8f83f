//! The `review` program. `review openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    review::service().run()
}
