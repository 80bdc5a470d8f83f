//! The `favourites` program. `favourites openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "otlp")]
    nudge_otlp::link();
    favourites::service().run()
}
