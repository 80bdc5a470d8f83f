//! The `review` program. `review openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    review::service().run()
}
