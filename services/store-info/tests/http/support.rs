//! A running service, and answers that can be asked about.

use std::{future::Future, sync::Arc, time::Duration};

use clap::Parser;
use nudge_testbed::TestDatabase;
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use store_info::{Args, Service};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for a state or an answer. Far more than any takes: only a fault gets here.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) const UNREACHABLE_NATS: &str = "nats://127.0.0.1:1";

/// The future's output, which must be there before the deadline.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// The service, stopped when this is dropped.
pub(crate) struct Api {
    client: Client,
    service: Option<Service>,
    stop: CancellationToken,
    database: Arc<TestDatabase>,
    nats_url: String,
    base: String,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(UNREACHABLE_NATS, &[]).await
    }

    /// Starts on a new database, with the NATS server at this address and further flags.
    pub(crate) async fn start_with(nats_url: &str, flags: &[&str]) -> Self {
        Self::start_on(Arc::new(TestDatabase::new().await), nats_url, flags).await
    }

    async fn start_on(database: Arc<TestDatabase>, nats_url: &str, flags: &[&str]) -> Self {
        let fixed = ["store-info", "--database-url", database.url(), "--nats-url", nats_url];
        let bind = ["--bind", "127.0.0.1:0"];
        let args = Args::parse_from(fixed.iter().chain(&bind).chain(flags));
        let stop = CancellationToken::new();
        let service = store_info::start(&args, stop.clone()).await.unwrap();
        let base = format!("http://{}", service.address());
        let nats_url = nats_url.to_owned();
        Self { client: Client::new(), service: Some(service), stop, database, nats_url, base }
    }

    /// Where its database is.
    pub(crate) fn database_url(&self) -> &str {
        self.database.url()
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    /// Sends a JSON body.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        Answer::of(self.request(method, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request("DELETE", path)).await
    }

    pub(crate) async fn import(&self, lines: impl Into<reqwest::Body>) -> Answer {
        let request = self.request("POST", "/stores/import");
        Answer::of(request.header("Content-Type", "application/x-ndjson").body(lines)).await
    }

    /// Waits until this path answers with 200.
    pub(crate) async fn appears(&self, path: &str) {
        in_time(async { while self.get(path).await.status != 200 {} }).await;
    }

    /// Stops the service and starts it again on the same database.
    pub(crate) async fn restart(mut self, flags: &[&str]) -> Self {
        self.stop.cancel();
        in_time(self.service.take().unwrap().stopped()).await;
        Self::start_on(self.database.clone(), &self.nats_url, flags).await
    }

    /// Everything the service holds: the states, and the version of each id, tombstones included.
    pub(crate) async fn everything(&self) -> Value {
        let list = self.get("/stores?limit=500").await;
        let items = self.send("POST", "/sync/v1/store/items", json!({"limit": 1000})).await;
        assert_eq!((list.status, items.status), (200, 200));
        json!({"stores": list.json["items"], "versions": items.json["items"]})
    }

    /// Opens a connection and sends these bytes as they are.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.base.trim_start_matches("http://")).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Sends a request whose path no URL parser has touched, and answers with status line to body.
    pub(crate) async fn raw_request(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = self.raw(request.as_bytes()).await;
        let mut answer = String::new();
        in_time(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null when the body is not JSON.
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = in_time(request.send()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Self { status, headers, json: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The version in the entity tag.
    #[track_caller]
    pub(crate) fn version(&self) -> u64 {
        let tag = self.header("ETag");
        let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        digits.and_then(|d| d.parse().ok()).unwrap_or_else(|| panic!("no version: {self:?}"))
    }

    /// The fields that a problem names.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let errors = self.json["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["field"].as_str()).collect()
    }

    /// Asserts a problem of this status that names this field (when one is given).
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, field: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("Content-Type"), "application/problem+json", "{self:?}");
        assert_eq!(self.json["status"], status, "{self:?}");
        assert!(field.is_empty() || self.fields().contains(&field), "{field}: {self:?}");
    }
}
