//! The three services in this process, on real NATS and databases of their own.

use std::net::SocketAddr;

use clap::Parser;
use nudge_runtime::database::Kind;
use nudge_subscriber_kit::Running;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{Nats, TestDatabase, database};

/// store-info, search and review. Stopped when dropped.
pub struct Services {
    /// The HTTP client of the tests.
    pub http: Client,
    store_info: SocketAddr,
    search: SocketAddr,
    review: SocketAddr,
    stop: CancellationToken,
    running: Option<(store_info::Service, [Running; 2])>,
    databases: [TestDatabase; 3],
}

impl Services {
    /// Starts all three on new databases.
    pub async fn start(nats: &Nats) -> Self {
        Self::start_on(nats, database::kind()).await
    }

    /// Like [`start`](Self::start), on databases of this kind.
    pub async fn start_on(nats: &Nats, kind: Kind) -> Self {
        let owner = TestDatabase::of(kind).await;
        let databases = [owner, TestDatabase::of(kind).await, TestDatabase::of(kind).await];
        Self::start_with(nats, databases, &[]).await
    }

    /// Like [`start`](Self::start), with traces to this collector.
    pub async fn start_traced(nats: &Nats, collector: &str) -> Self {
        let databases =
            [TestDatabase::new().await, TestDatabase::new().await, TestDatabase::new().await];
        Self::start_with(nats, databases, &["--otlp-endpoint".to_owned(), collector.to_owned()])
            .await
    }

    /// Like [`start`](Self::start), with the stores in this database.
    pub async fn start_with_owner_on(nats: &Nats, owner: TestDatabase) -> Self {
        let databases = [owner, TestDatabase::new().await, TestDatabase::new().await];
        Self::start_with(nats, databases, &[]).await
    }

    async fn start_with(nats: &Nats, databases: [TestDatabase; 3], all: &[String]) -> Self {
        crate::logs();
        let stop = CancellationToken::new();
        let arguments = |program: &str, database: &TestDatabase, further: &[String]| {
            let own = [
                program,
                "--bind",
                "127.0.0.1:0",
                "--nats-url",
                &nats.url(),
                "--database-url",
                database.url(),
            ];
            own.iter()
                .map(|text| (*text).to_owned())
                .chain(further.iter().chain(all).cloned())
                .collect::<Vec<_>>()
        };
        let args = store_info::Args::parse_from(arguments("store-info", &databases[0], &[]));
        let store_info = store_info::start(&args, stop.clone()).await.expect("store-info starts");
        let owner = ["--store-owner-url".to_owned(), format!("http://{}", store_info.address())];
        let words = arguments("search", &databases[1], &owner);
        let search = search::service().start(words, stop.clone()).await.expect("search starts");
        let words = arguments("review", &databases[2], &owner);
        let review = review::service().start(words, stop.clone()).await.expect("review starts");
        Self {
            http: Client::new(),
            store_info: store_info.address(),
            search: search.address,
            review: review.address,
            stop,
            running: Some((store_info, [search, review])),
            databases,
        }
    }

    /// Stops them, and waits until they have stopped.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some((store_info, subscribers)) = self.running.take() {
            store_info.stopped().await;
            for subscriber in subscribers {
                subscriber.stopped().await;
            }
        }
    }

    /// The database of store-info.
    pub fn store_info_database(&self) -> &TestDatabase {
        &self.databases[0]
    }

    /// The database of search.
    pub fn search_database(&self) -> &TestDatabase {
        &self.databases[1]
    }

    /// The database of review.
    pub fn review_database(&self) -> &TestDatabase {
        &self.databases[2]
    }

    /// The URL of a path of store-info.
    pub fn store_info(&self, path: &str) -> String {
        format!("http://{}{path}", self.store_info)
    }

    /// The URL of a path of search.
    pub fn search(&self, path: &str) -> String {
        format!("http://{}{path}", self.search)
    }

    /// The URL of a path of review.
    pub fn review(&self, path: &str) -> String {
        format!("http://{}{path}", self.review)
    }

    /// Replaces a store. Returns its `Nudge-Token`.
    pub async fn put_store(&self, id: &str, body: Value) -> String {
        let url = self.store_info(&format!(
            "/stores/{}",
            nudge_protocol::subject::encode_token(&crate::id(id))
        ));
        let response = self.http.put(url).json(&body).send().await.expect("an answer");
        assert!(response.status().is_success(), "{response:?}");
        token(&response)
    }

    /// The IDs that a search finds once the write that `token` names is applied.
    pub async fn found(&self, query: &[(&str, &str)], token: &str) -> Vec<String> {
        let request =
            self.http.get(self.search("/stores")).query(query).header("Nudge-Token", token);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap_or_default());
        let answer: Value = response.json().await.expect("JSON");
        let ids = answer["ids"].as_array().expect("ids").iter();
        ids.map(|id| id.as_str().expect("an id").to_owned()).collect()
    }
}

/// The `Nudge-Token` of an answer.
pub fn token(response: &Response) -> String {
    let token = response.headers().get("Nudge-Token").expect("a token");
    token.to_str().expect("ASCII").to_owned()
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
