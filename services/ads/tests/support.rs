//! Campaigns on a real database, without a broker and without an owner.

use ads::{
    StoreState,
    campaigns::{COMPONENT, Campaigns, MIGRATIONS},
    http, stores,
};
use axum::{
    body::Body,
    http::{Method, Request, header::CONTENT_TYPE},
};
use nudge_subscriber_kit::{
    Mirror,
    testing::{Answer, ReadModel, ask},
};
use nudge_testbed::TestDatabase;
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) stores: ReadModel<Mirror<StoreState>>,
    _database: TestDatabase,
}

impl World {
    /// A world with open stores, of which each has its ID as its name.
    pub(crate) async fn with(ids: &[&str]) -> Self {
        let database = TestDatabase::new().await;
        let stores = ReadModel::on(database.open().await, stores()).await;
        stores.database.migrate(COMPONENT, MIGRATIONS).await.unwrap();
        for id in ids {
            stores.put(id, json!({"name": id, "open": true})).await;
        }
        Self { stores, _database: database }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = match body {
            Some(body) => {
                request.header(CONTENT_TYPE, "application/json").body(body.to_string().into())
            }
            None => request.body(Body::empty()),
        };
        let campaigns = Campaigns::new(self.stores.database.clone());
        ask(http::routes().with_state(campaigns), request.unwrap()).await
    }

    /// Begins a campaign, and returns its ID.
    pub(crate) async fn begin(&self, draft: &Value) -> String {
        let answer = self.ask(Method::POST, "/campaigns", Some(draft)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// The stores to advertise.
    pub(crate) async fn ads(&self, query: &str) -> Vec<String> {
        let answer = self.ask(Method::GET, &format!("/ads{query}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let ads = answer.json();
        let of = |item: &Value| item["id"].clone();
        let items: Vec<_> = ads["items"].as_array().unwrap().iter().map(of).collect();
        assert_eq!(ads["ids"], json!(items));
        serde_json::from_value(ads["ids"].clone()).unwrap()
    }

    /// Reports that these campaigns were shown. Returns how many were counted.
    pub(crate) async fn shown(&self, campaigns: &[&String]) -> u64 {
        let body = json!({ "campaigns": campaigns });
        let answer = self.ask(Method::POST, "/ads/shown", Some(&body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["counted"].as_u64().unwrap()
    }

    pub(crate) async fn rows(&self) -> i64 {
        let sql = "SELECT count(*) FROM campaign";
        let (rows,) = sqlx::query_as(sql).fetch_one(self.stores.database.reader()).await.unwrap();
        rows
    }
}

/// A campaign that runs everywhere, now.
pub(crate) fn draft(store: &str, budget: u32) -> Value {
    json!({"store_id": store, "budget": budget, "from": "2020-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"})
}

/// A campaign with other values for some fields.
pub(crate) fn with(mut draft: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        draft[name] = value.clone();
    }
    draft
}
