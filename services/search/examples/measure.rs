//! Measures the read model alone: how many states per second it applies, and how long a search takes.
//!
//! `cargo run --release -p search --example measure -- STORES.ndjson` (one store with its `id` per
//! line, as in `POST /stores/import`)

use std::time::{Duration, Instant};

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{BoxError, Database, database::Durability};
use nudge_subscriber_kit::{Apply, EntityState};
use search::{
    query::{StoreQuery, Text},
    read_model::{self, Stores},
    store::StoreState,
};
use serde_json::{Value, json};

const BATCH: usize = 256;
const SEARCHES: usize = 200;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let path = std::env::args().nth(1).ok_or("missing argument: the file of stores")?;
    let lines = std::fs::read_to_string(path)?;
    let stores: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("search.db").display());
    let db = Database::open(&url, Durability::Refillable).await?;
    read_model::migrate(&db).await?;

    println!("{} stores, batches of {BATCH}, one transaction each", stores.len());
    apply(&db, "new", &stores, |_| {}).await?;
    apply(&db, "open or closed", &stores, |store| store["open"] = json!(false)).await?;
    apply(&db, "renamed", &stores, |store| store["name"] = json!(format!("새 {}", store["name"])))
        .await?;
    apply(&db, "named back", &stores, |_| {}).await?;

    let first = stores.first().and_then(|store| store["name"].as_str()).unwrap_or_default();
    let many: String = ('가'..).step_by(28).take(100).map(|c| format!("{c} ")).collect();
    for text in [first, "커피", "서", "서울", "카페 강남", "스타벅스", "a", "없는낱말", &many]
    {
        search(&db, Some(text)).await?;
    }
    search(&db, None).await
}

async fn apply(
    db: &Database,
    what: &str,
    stores: &[Value],
    change: impl Fn(&mut Value),
) -> Result<(), BoxError> {
    let entity = |store: &Value| {
        let mut store = store.clone();
        if store["open"].is_null() {
            store["open"] = json!(true);
        }
        change(&mut store);
        Ok(EntityState {
            id: EntityId::new(store["id"].as_str().unwrap_or_default())?,
            version: Version::new(1)?,
            changed_at: nudge_runtime::clock::now(),
            state: Some(serde_json::from_value::<StoreState>(store)?),
        })
    };
    let entities = stores.iter().map(entity).collect::<Result<Vec<_>, BoxError>>()?;
    let began = Instant::now();
    for batch in entities.chunks(BATCH) {
        let mut tx = db.begin().await?;
        Stores.apply(&mut tx, batch).await?;
        tx.commit().await?;
    }
    let rate = entities.len() as f64 / began.elapsed().as_secs_f64();
    println!("apply, {what}: {rate:.0} rows/s");
    Ok(())
}

async fn search(db: &Database, text: Option<&str>) -> Result<(), BoxError> {
    let text = text.map(Text::new);
    let shown = format!("{text:?}").chars().take(60).collect::<String>();
    let query =
        StoreQuery { text, category: None, region: None, open: None, limit: 20, after: None };
    let mut times = Vec::new();
    let mut found = 0;
    for _ in 0..SEARCHES {
        let began = Instant::now();
        found = read_model::find(db, &query).await?.items.len();
        times.push(began.elapsed());
    }
    times.sort();
    let ms = |part: f64| Duration::as_secs_f64(&times[(SEARCHES as f64 * part) as usize]) * 1e3;
    println!("search: p50 {:.2} ms, p99 {:.2} ms, {found} on the page  {shown}", ms(0.5), ms(0.99));
    Ok(())
}
