//! The `favourites` program. `favourites openapi` prints its OpenAPI document.

use std::process::ExitCode;

fn main() -> ExitCode {
    favourites::service().run()
}
