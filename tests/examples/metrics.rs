//! Prints `docs/metrics.md`: `cargo run -q -p nudge-tests --example metrics > docs/metrics.md`.

#[tokio::main]
async fn main() {
    print!("{}", nudge_tests::metrics::page().await);
}
