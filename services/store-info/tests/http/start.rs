//! Starting, stopping, and what operators ask.

use std::process::Command;

use serde_json::json;

use crate::support::{Api, UNREACHABLE_NATS};

#[tokio::test]
async fn it_is_live_and_ready_without_nats_and_counts_what_it_does() {
    let api = Api::start().await;
    api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    api.import("{\"id\":\"2\",\"name\":\"b\"}\nx\n").await;
    assert_eq!((api.get("/livez").await.status, api.get("/readyz").await.status), (200, 200));
    let metrics = api.get("/metrics").await;
    assert!(metrics.header("Content-Type").starts_with("application/openmetrics-text"));
    for line in [
        "store_info_writes_total{effect=\"created\"} 2",
        "store_info_writes_total{effect=\"unchanged\"} 1",
        "store_info_import_rejected_lines_total 1",
        "nudge_relay_connected{entity=\"store\"} 0",
    ] {
        assert!(metrics.text.lines().any(|l| l == line), "{line}\n{}", metrics.text);
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let api = Api::start().await;
    let put = api
        .send("PUT", "/stores/1", json!({"name": "a", "menus": [{"name": "m", "price": 1}]}))
        .await;
    let again = api.restart(&[]).await;
    let got = again.get("/stores/1").await;
    assert_eq!((&got.json, got.version()), (&put.json, put.version()));
}

#[tokio::test]
async fn the_sample_is_loaded_into_an_empty_database_only() {
    let mut api = Api::start_with(&["--sample"]).await;
    let loaded = api.everything().await;
    let stores = loaded["stores"].as_array().unwrap();
    assert!(stores.len() >= 60);
    // Whoever deletes all of them does not get them back.
    for store in stores {
        let path = format!("/stores/{}", store["id"].as_str().unwrap());
        assert_eq!(api.delete(&path).await.status, 204);
    }
    let emptied = api.everything().await;
    for flags in [&["--sample"][..], &[]] {
        api = api.restart(flags).await;
        assert_eq!(api.everything().await, emptied);
    }
}

#[tokio::test]
async fn someone_elses_stores_keep_the_sample_out() {
    let api = Api::start().await;
    api.send("PUT", "/stores/mine", json!({"name": "a"})).await;
    let before = api.everything().await;
    let again = api.restart(&["--sample"]).await;
    assert_eq!(again.everything().await, before);
}

/// The program ends with one line that names the setting.
#[test]
fn a_bad_setting_stops_the_start_with_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (variable, value) in [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "sqlite:/nowhere/at/all.db"),
        ("BIND", "0.0.0.0:7101"),
        ("BIND", &taken),
        ("NATS_URL", "http://not a url"),
        ("SAMPLE", "perhaps"),
        ("LOG_FORMAT", "xml"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-info"));
        command.env_clear().env("DATABASE_URL", "sqlite::memory:").env("BIND", "127.0.0.1:0");
        command.env("NATS_URL", UNREACHABLE_NATS).env("LOG", "error").env(variable, value);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{variable}={value}");
        assert_eq!(error.lines().count(), 1, "{variable}={value}: {error}");
        assert!(error.contains(variable), "{variable}={value}: {error}");
    }
}

#[test]
fn the_program_prints_its_document_without_any_setting() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-info"));
    let output = command.env_clear().arg("openapi").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), store_info::openapi::document());
}
