//! Prints what every subscriber offers, as an OpenAPI document:
//! `cargo run -p nudge-subscriber-kit --example openapi > api/subscriber.openapi.json`.

fn main() {
    print!("{}", nudge_subscriber_kit::openapi::document());
}
