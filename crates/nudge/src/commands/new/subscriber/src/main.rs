//! The `my-service` program. `my-service openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    my_service::service().run()
}
