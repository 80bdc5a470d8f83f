//! The `storefront` program. `storefront openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    storefront::service().run()
}
