//! Keeps the name of each store, and nothing else.

use nudge_subscriber_kit::runtime::{
    BoxError, Broker, Database, Tx,
    database::{Durability, Kind},
    serve,
    set_sql::{Column, rows},
};
use nudge_subscriber_kit::{Apply, EntityState, Subscriber};
use sqlx::AssertSqlSafe;

#[derive(serde::Deserialize)]
struct Store {
    name: String,
}

struct Names;

impl Apply for Names {
    type State = Store;
    const FIELDS: &'static [&'static str] = &["name"];

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Store>]) -> Result<(), BoxError> {
        let name = |e: &EntityState<Store>| e.state.as_ref().map(|store| store.name.clone());
        let row = |e: &EntityState<Store>| serde_json::json!({"id": e.id, "name": name(e)});
        let batch = serde_json::Value::from_iter(entities.iter().map(row)).to_string();
        let from = rows(Kind::of(tx), "$1", &[Column::Text("id"), Column::Text("name")]);
        let upsert = format!(
            "INSERT INTO names (id, name) SELECT r.id, r.name FROM {from} WHERE true \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        );
        sqlx::query(AssertSqlSafe(upsert)).bind(batch).execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let set = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let stop = serve::stop_on_signal();
    let db =
        Database::open(&set("DATABASE_URL", "sqlite:names.db"), Durability::Refillable).await?;
    let table = "CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, name TEXT)";
    db.write(sqlx::query(table)).await?;
    let broker = Broker::connect(&set("NATS_URL", "nats://127.0.0.1:7122"), "names").await?;
    let names = Subscriber::builder("names", &db, &broker)
        .follow("store", &set("STORE_OWNER_URL", "http://127.0.0.1:7101"), Names)
        .start(stop.clone())
        .await?;
    let listener = serve::bind(set("BIND", "127.0.0.1:7199").parse()?).await?;
    serve::serve(listener, names.router(), stop).await;
    names.stopped().await;
    Ok(())
}
