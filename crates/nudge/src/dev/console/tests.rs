use axum::{body::Bytes, extract::Path as Segments, http::HeaderMap, routing::patch};
use tokio::net::TcpListener;

use super::*;
use crate::{
    client::Service,
    stub::{self, Stubs},
};

struct Fixture {
    base: String,
    client: reqwest::Client,
    stop: CancellationToken,
    _stubs: Stubs,
}

/// A console in front of stub services, without NATS.
async fn start(services: Vec<(Service, Router)>) -> Fixture {
    start_with(services, Vec::new()).await
}

async fn start_with(services: Vec<(Service, Router)>, others: Vec<Peer>) -> Fixture {
    let stubs = stub::start(services).await;
    let mut peers = stubs.api.peers().to_vec();
    peers::merge(&mut peers, others);
    // Nobody listens there: the broker connects in the background, or never.
    let broker = Broker::connect("nats://127.0.0.1:1", "test").await.unwrap();
    let stop = CancellationToken::new();
    let restarts = HashMap::from([("search".to_owned(), Arc::new(AtomicU64::new(3)))]);
    let console = Console::new(stubs.api.clone().with(peers), broker, restarts, stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router(console)).await.unwrap() });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Fixture { base, client, stop, _stubs: stubs }
}

fn ready() -> Router {
    Router::new().route("/readyz", get(async || "ready"))
}

#[tokio::test]
async fn whoever_is_not_ready_is_named() {
    let fixture = start(vec![(Service::StoreInfo, ready()), (Service::Search, ready())]).await;
    let answer = fixture.client.get(format!("{}/readyz", fixture.base)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["not_ready"], json!(["NATS", "review"]));
    assert_eq!(
        body["parts"][2],
        json!({"name": "search", "ready": true, "of_the_demo": true, "restarts": 3})
    );
}

#[tokio::test]
async fn the_page_comes_whole_from_here_and_may_talk_to_nobody_else() {
    let fixture = start(Vec::new()).await;
    let page = fixture.client.get(&fixture.base).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains("http://") || text.contains("www.w3.org"), "{text}");
    for (name, kind, text) in PAGE_FILES {
        let file = fixture.client.get(format!("{}/{name}", fixture.base)).send().await.unwrap();
        assert_eq!(file.headers()["content-type"], format!("{kind}; charset=utf-8"));
        assert_eq!(file.text().await.unwrap(), text);
    }
    let missing = fixture.client.get(format!("{}/other.js", fixture.base)).send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn an_edit_is_handed_on_with_its_encoded_id_and_comes_back_with_its_token() {
    let edit = async |Segments(id): Segments<String>, headers: HeaderMap, body: Bytes| {
        assert_eq!((id.as_str(), &body[..]), ("a/b", &b"{}"[..]));
        assert_eq!(headers["content-type"], "application/merge-patch+json");
        assert!(!headers.contains_key("cookie"));
        [("Nudge-Token", "store/a%2Fb@17"), ("X-Secret", "stays")]
    };
    let owner = Router::new().route("/stores/{id}", patch(edit));
    let fixture = start(vec![(Service::StoreInfo, owner)]).await;
    let answer = fixture
        .client
        .patch(format!("{}/api/store-info/stores/a%2Fb", fixture.base))
        .header("Content-Type", "application/merge-patch+json")
        .header("Cookie", "mine")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["nudge-token"], "store/a%2Fb@17");
    assert!(!answer.headers().contains_key("x-secret"));
}

#[tokio::test]
async fn a_service_that_is_away_or_unknown_is_a_problem() {
    let fixture = start(Vec::new()).await;
    let status = async |path: &str| {
        fixture
            .client
            .get(format!("{}{path}", fixture.base))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(status("/api/search/stores").await, 502);
    assert_eq!(status("/api/charging/stores").await, 404);
}

#[tokio::test]
async fn events_of_all_subscribers_come_in_one_stream_that_ends_with_the_demo() {
    let events = async || {
        let once = stream::iter([Ok::<_, Infallible>("data: {\"kind\":\"applied\"}\n\n")]);
        axum::body::Body::from_stream(once.chain(stream::pending()))
    };
    let status = async || Json(json!({"entities": [{"entity": "store"}]}));
    let search =
        Router::new().route("/nudge/v1/events", get(events)).route(roles::STATUS_PATH, get(status));
    let fixture = start(vec![(Service::Search, search)]).await;
    let url = format!("{}/api/events", fixture.base);
    let mut answer = fixture.client.get(url).send().await.unwrap();
    let mut text = String::new();
    let told = r#"{"event":{"kind":"applied"},"subscriber":"search"}"#;
    while !(text.contains(&format!("event: told\ndata: {told}"))
        && text.contains("\"subscriber\":\"review\",\"up\":false"))
    {
        let chunk = answer.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    fixture.stop.cancel();
    while answer.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn others_are_shown_and_listed_and_nothing_waits_for_them() {
    let status =
        async || Json(json!({"service": "charging-map", "entities": [{"entity": "station"}]}));
    let map = Router::new().route(roles::STATUS_PATH, get(status));
    let charging = stub::start([(Service::Search, map)]).await;
    let url = charging.api.of(Service::Search).url();
    let fixture = start_with(vec![], vec![Peer::new("charging", url)]).await;
    let get = async |path: &str| -> Value {
        let answer = fixture.client.get(format!("{}{path}", fixture.base)).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let body = get("/api/status").await;
    assert_eq!(body["subscribers"]["charging"]["service"], "charging-map");
    assert_eq!(body["subscribers"]["review"], Value::Null);
    assert_eq!(body["subscribers"].get("store-info"), None);
    let listed = get("/api/services").await;
    assert!(listed.as_array().unwrap().contains(&json!({"name": "charging", "url": url})));
    // The broker is away, which only who asks for its consumers must know.
    assert_eq!(get("/api/holders").await["status"], 502);
    let missing = get("/readyz").await["not_ready"].take();
    assert!(!missing.as_array().unwrap().contains(&json!("charging")), "{missing}");
    assert_eq!(get("/api/charging/nudge/v1/status").await["service"], "charging-map");
}
