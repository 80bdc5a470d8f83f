//! The `search` program. `search openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    search::service().run()
}
