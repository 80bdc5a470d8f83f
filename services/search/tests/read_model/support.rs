//! A read model in a temporary directory, and functions to fill and query it.

use axum::{body::Body, http::Request};
use nudge_protocol::{EntityId, Timestamp, Version};
use nudge_runtime::Database;
use nudge_subscriber_kit::{Apply, EntityState};
use nudge_testbed::TestDatabase;
use search::{
    query::{StoreQuery, Text},
    read_model::{self, Page, Stores},
    store::StoreState,
};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) struct ReadModel {
    pub(crate) db: Database,
    _database: TestDatabase,
}

impl ReadModel {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::new().await;
        let db = database.open().await;
        read_model::migrate(&db).await.unwrap();
        Self { db, _database: database }
    }

    /// Applies a batch as the kit would: newer states only, sorted by ID, in one transaction.
    pub(crate) async fn apply(&self, mut batch: Vec<EntityState<StoreState>>) {
        batch.sort_by(|a, b| a.id.cmp(&b.id));
        let mut tx = self.db.begin().await.unwrap();
        Stores.apply(&mut tx, &batch).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn find(&self, query: &StoreQuery) -> Page {
        read_model::find(&self.db, query).await.unwrap()
    }

    /// The IDs of all stores that a text finds, in order.
    pub(crate) async fn ids(&self, text: &str) -> Vec<String> {
        let page = self.find(&StoreQuery { text: Some(Text::new(text)), ..everything() }).await;
        assert_eq!(page.next, None, "the test expects one page");
        ids(&page)
    }

    /// Sends a request over HTTP. Returns the status, the content type and the body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String, Value) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let routes = search::http::routes().with_state(self.db.clone());
        let response = axum::Router::from(routes).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, content_type, serde_json::from_slice(&body).unwrap())
    }
}

/// A search without any condition, with the longest page.
pub(crate) fn everything() -> StoreQuery {
    StoreQuery { text: None, category: None, region: None, open: None, limit: 100, after: None }
}

pub(crate) fn ids(page: &Page) -> Vec<String> {
    page.items.iter().map(|item| item.id.to_string()).collect()
}

/// An open store with these fields and no others.
pub(crate) fn store(id: &str, version: u64, fields: Value) -> EntityState<StoreState> {
    let mut state = json!({"open": true});
    state.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    EntityState {
        id: EntityId::new(id).unwrap(),
        version: Version::new(version).unwrap(),
        changed_at: Timestamp::from_unix_micros(1),
        state: Some(serde_json::from_value(state).unwrap()),
    }
}

pub(crate) fn named(id: &str, name: &str) -> EntityState<StoreState> {
    store(id, 1, json!({"name": name}))
}

pub(crate) fn deleted(id: &str, version: u64) -> EntityState<StoreState> {
    EntityState { state: None, ..store(id, version, json!({"name": "x"})) }
}

/// Every byte percent-encoded.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
