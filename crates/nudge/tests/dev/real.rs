//! `nudge dev` with the real services.

use std::fs;

use nudge_runtime::database::Kind;
use nudge_testbed::{TestDatabase, eventually, shell};
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::dev::demo::{Demo, signal};

pub(crate) async fn is_ready(demo: &Demo) {
    let (http, url) = (Client::new(), format!("http://127.0.0.1:{}/readyz", demo.port_base));
    eventually("everything is ready", || async {
        let answer = http.get(&url).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// Many developers have such settings for all their programs.
#[tokio::test]
async fn settings_for_traces_that_it_cannot_send_do_not_stop_the_demo() {
    let demo = Demo::of_real_services();
    let mut command = demo.command();
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.invalid:4317");
    let (mut child, pids) = demo.spawn(command).await;
    is_ready(&demo).await;
    signal(&child, Signal::INT);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = false;
    while let Some(line) = said.next_line().await.unwrap() {
        told |= line.contains("OTEL_EXPORTER_OTLP_ENDPOINT is set, but")
            && line.contains("no traces are sent");
    }
    assert!(told && child.wait().await.unwrap().success());
    demo.is_gone(pids).await;
}

/// The one line says all: nobody has to look into a log, or to wait.
#[tokio::test]
async fn a_damaged_read_model_is_told_at_once_and_fills_again_once_it_is_deleted() {
    let demo = Demo::of_real_services();
    let running = demo.start().await;
    is_ready(&demo).await;
    demo.stop(running).await;
    let file = demo.path("data/search.db");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();

    let (mut child, pids) = demo.start().await;
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = loop {
        let line = said.next_line().await.unwrap().expect("a line about the damage");
        if line.contains("error: ") {
            break line;
        }
    };
    let told =
        format!("error: DATABASE_URL: {} is damaged; it is safe to delete it", file.display());
    assert!(line.contains(&told), "{line}");
    signal(&child, Signal::INT);
    while said.next_line().await.unwrap().is_some() {}
    assert!(child.wait().await.unwrap().success());
    demo.is_gone(pids).await;

    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(demo.path(&format!("data/search.db{suffix}")));
    }
    let running = demo.start().await;
    is_ready(&demo).await;
    let search = format!("http://127.0.0.1:{}/stores?limit=1", demo.port_base + 2);
    let found: Value = Client::new().get(search).send().await.unwrap().json().await.unwrap();
    assert_eq!(found["ids"].as_array().map(Vec::len), Some(1), "{found}");
    demo.stop(running).await;
}

#[tokio::test]
async fn the_demo_on_postgresql_gets_ready_and_search_follows_what_psql_edits() {
    let (demo, database) = (Demo::of_real_services(), TestDatabase::of(Kind::Postgres).await);
    let running = demo.start_with(&["--database-url", database.url()]).await;
    let (http, base) = (Client::new(), demo.port_base);
    is_ready(&demo).await;

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
