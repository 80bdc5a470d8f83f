//! The `ads` program. `ads openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    ads::service().run()
}
