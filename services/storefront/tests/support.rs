//! The view on a real database, without a broker and without owners; and a source of lists that behaves as it is told.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::Timestamp;
use nudge_runtime::auth::Credentials;
use nudge_subscriber_kit::{
    Mirror,
    testing::{Answer, ReadModel, ask, get},
};
use nudge_testbed::TestDatabase;
use parking_lot::Mutex;
use serde_json::{Value, json};
use storefront::{
    graphql::Api,
    http,
    lists::Lists,
    reviews::Reviews,
    source::{Limits, Sources},
    stores::{self, StoreState},
    view::View,
};
use tokio::net::TcpListener;

/// How a source answers.
#[derive(Clone)]
pub(crate) enum Way {
    /// With this.
    Answers(u16, Value),
    /// With this text.
    Says(u16, &'static str),
    /// With this status and header.
    Refers(u16, header::HeaderName, &'static str),
    /// With a body that does not end.
    Floods,
    /// Never.
    Hangs,
}

/// A source for all lists.
#[derive(Clone)]
pub(crate) struct Fake {
    way: Arc<Mutex<Way>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) fn now(&self, way: Way) {
        *self.way.lock() = way;
    }

    pub(crate) fn chooses(&self, ids: &[&str], next: Option<&str>) {
        self.now(Way::Answers(200, json!({"ids": ids, "items": [], "next": next})));
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

async fn answer(State(fake): State<Fake>, uri: Uri) -> Response {
    fake.asked.lock().push(uri.to_string());
    let way = fake.way.lock().clone();
    let status = |status| StatusCode::from_u16(status).unwrap();
    match way {
        Way::Answers(of, body) => (status(of), body.to_string()).into_response(),
        Way::Says(of, body) => (status(of), body).into_response(),
        Way::Refers(of, header, value) => (status(of), [(header, value)]).into_response(),
        Way::Floods => {
            let chunk = || Ok::<_, Infallible>(Bytes::from_static(&[b' '; 65_536]));
            Body::from_stream(futures_util::stream::repeat_with(chunk)).into_response()
        }
        Way::Hangs => std::future::pending().await,
    }
}

pub(crate) struct World {
    pub(crate) stores: ReadModel<Mirror<StoreState>>,
    pub(crate) reviews: ReadModel<Reviews>,
    pub(crate) source: Fake,
    api: Api,
    pub(crate) database: TestDatabase,
}

/// Limits that do not make a test wait.
pub(crate) fn limits() -> Limits {
    Limits { deadline: Duration::from_millis(500), ..Limits::default() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(limits(), None).await
    }

    /// With these limits, and sources at this URL instead of a running one.
    pub(crate) async fn with(limits: Limits, url: Option<String>) -> Self {
        let database = TestDatabase::new().await;
        let stores = ReadModel::of(database.open().await, "store", stores::mirror()).await;
        let reviews = ReadModel::of(stores.database.clone(), "review", Reviews::new()).await;
        let nothing = Way::Answers(200, json!({"ids": []}));
        let source = Fake { way: Arc::new(Mutex::new(nothing)), asked: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(source.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let url = url.unwrap_or(own);
        let sources = Sources::new(|_| &url, limits, &Credentials::default());
        // A minute ago.
        let then = SystemTime::now() - Duration::from_secs(60);
        let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64;
        let current_at = move || Some(Timestamp::from_unix_micros(then));
        let lists = Lists::new(View::new(stores.database.clone()), sources, current_at);
        Self { stores, reviews, source, api: Api::new(lists), database }
    }

    /// With open stores, of which each has its ID as its name.
    pub(crate) async fn with_stores(ids: &[&str]) -> Self {
        let world = Self::new().await;
        for id in ids {
            world.put_store(id, json!({"name": id})).await;
        }
        world
    }

    pub(crate) async fn put_store(&self, id: &str, fields: Value) {
        let mut store = json!({"name": id, "open": true});
        store.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.stores.put(id, store).await;
    }

    pub(crate) async fn review(&self, id: &str, store: &str, rating: u8) {
        self.reviews.put(id, review(store, rating)).await;
    }

    pub(crate) fn routes(&self) -> Router {
        http::routes().with_state(self.api.clone()).into()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(self.routes(), path).await
    }

    /// The page of a store.
    pub(crate) async fn page(&self, id: &str) -> Value {
        let answer = self.get(&format!("/stores/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// How many ratings the page of a store shows, and their mean.
    pub(crate) async fn rating(&self, id: &str) -> (u64, Option<f64>) {
        let rating = self.page(id).await["rating"].take();
        (rating["count"].as_u64().unwrap(), rating["average"].as_f64())
    }

    /// A list.
    pub(crate) async fn list(&self, query: &str) -> Value {
        let answer = self.get(&format!("/stores?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        answer.json()
    }

    /// What a GraphQL request is answered.
    pub(crate) async fn query(&self, query: &str) -> Value {
        let answer = self.post(json!({"query": query}).to_string(), "application/json", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    pub(crate) async fn post(&self, body: String, media_type: &str, accept: &str) -> Answer {
        let request = Request::post("/graphql")
            .header(header::CONTENT_TYPE, media_type)
            .header(header::ACCEPT, accept)
            .body(body.into());
        ask(self.routes(), request.unwrap()).await
    }
}

pub(crate) fn review(store: &str, rating: u8) -> Value {
    json!({
        "store_id": store, "rating": rating, "text": "맛있어요", "author": "민지",
        "created_at": "2026-01-01T00:00:00.000000Z",
    })
}
