//! Prints the OpenAPI document of the API of every owner:
//! `cargo run -p nudge-publisher --example openapi > api/owner.openapi.json`.

fn main() {
    print!("{}", nudge_publisher::sync_api::document::of_any_entity());
}
