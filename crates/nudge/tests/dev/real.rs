//! `nudge dev --database-url` with the real services: what the README shows.

use nudge_runtime::database::Kind;
use nudge_testbed::{TestDatabase, eventually, shell};
use reqwest::Client;
use serde_json::{Value, json};

use crate::dev::demo::Demo;

#[tokio::test]
async fn the_demo_on_postgresql_gets_ready_and_search_follows_what_psql_edits() {
    let (demo, database) = (Demo::of_real_services(), TestDatabase::of(Kind::Postgres).await);
    let running = demo.start_with(&["--database-url", database.url()]).await;
    let (http, base) = (Client::new(), demo.port_base);
    eventually("everything is ready", || async {
        let answer = http.get(format!("http://127.0.0.1:{base}/readyz")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;

    // A name that no sample store has, in the schema of the owner.
    shell::run(
        database.url(),
        "UPDATE store_info.store SET name = '햇살모퉁이' WHERE id = 'store-001'",
    );
    eventually("search finds the store under its new name", || async {
        let search = http.get(format!("http://127.0.0.1:{}/stores", base + 2));
        let answer = search.query(&[("q", "햇살모퉁이")]).send().await.ok()?;
        (answer.json::<Value>().await.ok()?["ids"] == json!(["store-001"])).then_some(())
    })
    .await;
    demo.stop(running).await;
}
