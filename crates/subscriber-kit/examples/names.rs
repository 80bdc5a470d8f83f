//! Keeps the name and the region of each store, and tells a store's name.

use std::process::ExitCode;

use nudge_subscriber_kit::axum::{Router, extract::*, http::StatusCode, routing::get};
use nudge_subscriber_kit::runtime::{Database, Problem};
use nudge_subscriber_kit::{Mirror, Service, sqlx};

#[derive(serde::Serialize, serde::Deserialize)]
struct Store {
    name: String,
    region: String,
}

fn main() -> ExitCode {
    Service::new("names")
        .listen("127.0.0.1:7199")
        .follow("store", "http://127.0.0.1:7101", Mirror::<Store>::table("store"))
        .routes(Router::new().route("/names/{id}", get(name)), |at| at.database.clone())
        .run()
}

async fn name(State(db): State<Database>, Path(id): Path<String>) -> Result<String, Problem> {
    let query = sqlx::query_as("SELECT name FROM store WHERE id = $1").bind(id);
    let found: Option<(String,)> = query.fetch_optional(db.reader()).await?;
    found.map(|(name,)| name).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no such store"))
}
