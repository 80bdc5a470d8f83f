//! Starting, stopping, and what operators ask.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nudge_testbed::{Nats, QUIET, ports::free_port};
use serde_json::json;

use crate::support::{Api, UNREACHABLE_NATS, in_time};

/// Longest wait for a program to get on.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, with these settings and no others.
fn program(command: &mut Command, settings: &[(&str, &str)]) {
    command.env_clear().env("DATABASE_URL", "sqlite::memory:").env("BIND", "127.0.0.1:0");
    command.env("NATS_URL", UNREACHABLE_NATS).env("LOG", "error");
    command.envs(settings.iter().copied());
}

/// A process that is ended when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

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
    let nats = Nats::start().await;
    let mut api = Api::start_with(&nats.url(), &["--sample"]).await;
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

/// Only the stream could tell that the database was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_waits_until_nats_tells_that_nothing_was_lost() {
    let mut nats = Nats::start().await;
    nats.kill();
    let api = Api::start_with(&nats.url(), &["--sample"]).await;
    assert_eq!(api.everything().await["stores"], json!([]));
    nats.restart().await;
    in_time(async {
        while api.everything().await["stores"] == json!([]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_stays_out_of_what_was_written_while_it_waited() {
    let mut nats = Nats::start().await;
    nats.kill();
    let api = Api::start_with(&nats.url(), &["--sample"]).await;
    api.send("PUT", "/stores/mine", json!({"name": "a"})).await;
    let before = api.everything().await;
    nats.restart().await;
    in_time(async {
        while !api
            .get("/metrics")
            .await
            .text
            .contains("nudge_relay_published_total{entity=\"store\"} 1")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(api.everything().await, before);
}

#[tokio::test]
async fn someone_elses_stores_keep_the_sample_out() {
    let nats = Nats::start().await;
    let api = Api::start_with(&nats.url(), &[]).await;
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
    let directory = tempfile::tempdir().unwrap();
    let damaged = directory.path().join("damaged.db");
    std::fs::write(&damaged, "no database".repeat(1_000)).unwrap();
    let damaged = format!("sqlite:{}", damaged.display());
    for (variable, value) in [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", &damaged),
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        ("DATABASE_URL", "sqlite:/nowhere/at/all.db"),
        ("BIND", "0.0.0.0:7101"),
        ("BIND", &taken),
        ("NATS_URL", "http://not a url"),
        ("SAMPLE", "perhaps"),
        ("LOG_FORMAT", "xml"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-info"));
        program(&mut command, &[(variable, value)]);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{variable}={value}");
        assert_eq!(error.lines().count(), 1, "{variable}={value}: {error}");
        assert_eq!(error.matches(variable).count(), 1, "{variable}={value}: {error}");
    }
}

/// It says at once whom it waits for, and why, and can be told to stop.
#[test]
fn a_server_that_is_not_there_is_told_at_once_and_the_wait_for_it_can_be_ended() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-info"));
    let url = "postgres://nobody@127.0.0.1:1/none";
    program(&mut command, &[("DATABASE_URL", url), ("LOG", "warn")]);
    let mut started = Process(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(started.0.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(line.contains("waiting up to") && line.contains("refused"), "{line}");
    Command::new("kill").arg(started.0.id().to_string()).status().unwrap();
    assert!(started.0.wait().unwrap().success());
    assert!(said.next().is_none(), "it has ended before its wait has");
}

/// More connections than it may have files open, none of which says what it wants.
#[tokio::test]
async fn however_many_connections_are_open_requests_are_answered() {
    const FILES: usize = 128;
    let port = free_port();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\"")]);
    command.arg(env!("CARGO_BIN_EXE_store-info"));
    let (directory, bind) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{port}"));
    let url = format!("sqlite:{}", directory.path().join("a.db").display());
    program(&mut command, &[("DATABASE_URL", &url), ("BIND", &bind)]);
    let _started = Process(command.spawn().unwrap());
    let client = nudge_runtime::tls::http().pool_max_idle_per_host(0);
    let client = client.timeout(PATIENCE).build().unwrap();
    let ready = async || {
        let answer = client.get(format!("http://{bind}/readyz")).send().await.ok()?;
        Some(answer.status().as_u16())
    };
    let began = Instant::now();
    while ready().await != Some(200) {
        assert!(began.elapsed() < PATIENCE, "it gets ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut slow = Vec::new();
    for n in 0..2 * FILES {
        let mut stream = TcpStream::connect(&bind).unwrap();
        stream.write_all(b"GET /stores HTTP/1.1\r\nHost: loc").unwrap();
        slow.push(stream);
        if n % 16 == 0 {
            assert_eq!(ready().await, Some(200), "after {n}");
            let put = client.put(format!("http://{bind}/stores/{n}")).json(&json!({"name": "a"}));
            assert_eq!(put.send().await.unwrap().status(), 201, "after {n}");
        }
    }
}

#[test]
fn the_program_prints_its_document_without_any_setting() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-info"));
    let output = command.env_clear().arg("openapi").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), store_info::openapi::document());
}
