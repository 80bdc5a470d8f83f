//! Prints the OpenAPI document of the API of every subscriber:
//! `cargo run -p nudge-subscriber-kit --example openapi > api/subscriber.openapi.json`.

fn main() {
    print!("{}", nudge_subscriber_kit::openapi::document());
}
