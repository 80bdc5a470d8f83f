//! Keeps the name and the region of each store, and nothing else.

use nudge_subscriber_kit::runtime::{BoxError, Broker, Database, database::Durability, serve};
use nudge_subscriber_kit::{Mirror, Subscriber};

#[derive(serde::Serialize, serde::Deserialize)]
struct Store {
    name: String,
    region: String,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let set = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let stop = serve::stop_on_signal();
    let db =
        Database::open(&set("DATABASE_URL", "sqlite:names.db"), Durability::Refillable).await?;
    let broker = Broker::connect(&set("NATS_URL", "nats://127.0.0.1:7122"), "names").await?;
    let owner = set("STORE_OWNER_URL", "http://127.0.0.1:7101");
    let names = Subscriber::builder("names", &db, &broker)
        .follow("store", &owner, Mirror::<Store>::table("store"))
        .start(stop.clone())
        .await?;
    let listener = serve::bind(set("BIND", "127.0.0.1:7199").parse()?).await?;
    serve::serve(listener, names.router(), stop).await;
    names.stopped().await;
    Ok(())
}
