//! A running service, and functions to talk to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nudge_protocol::{EntityId, Timestamp, Version, subject::encode_token};
use nudge_subscriber_kit::{Apply, EntityState, Running};
use nudge_testbed::TestDatabase;
use reqwest::{Method, RequestBuilder};
use review::{
    service,
    stores::{self, StoreState},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The service with its surroundings.
pub(crate) struct World {
    pub(crate) service: Running,
    stop: CancellationToken,
    client: reqwest::Client,
    calls_to_owner: Arc<AtomicUsize>,
    _database: Arc<TestDatabase>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The fields that a problem names.
    pub(crate) fn wrong_fields(&self) -> Vec<&str> {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
    }

    /// The status of a problem, which its body repeats.
    pub(crate) fn problem(&self) -> u16 {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status);
        assert!(self.body["detail"].is_string() && self.body["title"].is_string());
        self.status
    }

    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }
}

/// A valid review.
pub(crate) fn draft() -> Value {
    json!({"rating": 4, "text": "국물이 진해요", "author": "민지"})
}

pub(crate) fn rated(rating: u8) -> Value {
    json!({"rating": rating, "text": "국물이 진해요", "author": "민지"})
}

pub(crate) fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

pub(crate) fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn reviews_of(store: &str) -> String {
    format!("/stores/{}/reviews", encode_token(&id(store)))
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_on(Arc::new(TestDatabase::new().await)).await
    }

    /// Starts on a database, which may have served another world before.
    pub(crate) async fn start_on(database: Arc<TestDatabase>) -> Self {
        let (owner, calls_to_owner) = counting_listener().await;
        let words = [
            "review",
            "--bind=127.0.0.1:0",
            "--nats-url=nats://127.0.0.1:1",
            &format!("--database-url={}", database.url()),
            &format!("--store-owner-url=http://{owner}"),
        ];
        let stop = CancellationToken::new();
        let service = service().start(words, stop.clone()).await.unwrap();
        let client = reqwest::Client::new();
        Self { service, stop, client, calls_to_owner, _database: database }
    }

    /// A world in which the store `s` is open.
    pub(crate) async fn with_open_store() -> Self {
        let world = Self::start().await;
        world.store("s", 1, "달빛국수", true).await;
        world
    }

    pub(crate) fn calls_to_owner(&self) -> usize {
        self.calls_to_owner.load(Ordering::SeqCst)
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.service.stopped().await;
    }

    /// Puts a store into the read model the way the subscriber kit does.
    pub(crate) async fn store(&self, store: &str, number: u64, name: &str, open: bool) {
        let state = StoreState { name: name.to_owned(), open };
        self.apply(vec![entity(store, number, Some(state))]).await;
    }

    /// Deletes a store from the read model the way the subscriber kit does.
    pub(crate) async fn store_deleted(&self, store: &str, number: u64) {
        self.apply(vec![entity(store, number, None)]).await;
    }

    pub(crate) async fn apply(&self, stores: Vec<EntityState<StoreState>>) {
        let db = &self.service.database;
        let mut tx = db.begin().await.unwrap();
        stores::mirror().apply(&mut tx, &stores).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.service.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Writes a review of the store `s`, and returns its path.
    pub(crate) async fn review(&self, body: &Value) -> String {
        let written = self.post("/stores/s/reviews", body).await;
        assert_eq!(written.status, 201, "{written:?}");
        written.header("location").to_owned()
    }

    /// Every change that the service has recorded, as subscribers see it.
    pub(crate) async fn recorded(&self) -> Vec<Value> {
        let page = self.post("/sync/v1/review/items", &json!({})).await;
        assert_eq!(page.status, 200, "{page:?}");
        page.body["items"].as_array().unwrap().clone()
    }

    /// Rows in the table of reviews.
    pub(crate) async fn rows(&self) -> i64 {
        let count = sqlx::query_as::<_, (i64,)>("SELECT count(*) FROM review");
        count.fetch_one(self.service.database.reader()).await.unwrap().0
    }
}

pub(crate) fn entity(
    store: &str,
    number: u64,
    state: Option<StoreState>,
) -> EntityState<StoreState> {
    EntityState {
        id: id(store),
        version: version(number),
        changed_at: Timestamp::from_unix_micros(0),
        state,
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = match bytes.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
    };
    Answer { status, headers, body }
}

/// Stands in for the owner of stores, and counts requests.
async fn counting_listener() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, calls)
}
