use std::convert::Infallible;

use axum::{body::Bytes, extract::Path as Segments, http::HeaderMap, routing::patch};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::{
    client::Service,
    roles,
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
    let console =
        Console::new(stubs.api.clone().with(peers), Some(broker), restarts, None, stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router(console)).await.unwrap() });
    let client = nudge_runtime::tls::http().no_proxy().build().unwrap();
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
    let compressed = fixture.client.get(&fixture.base).header("Accept-Encoding", "br, gzip").send();
    assert_eq!(compressed.await.unwrap().headers()["content-encoding"], "gzip");
    for (name, kind, text) in page::FILES {
        let file = fixture.client.get(format!("{}/{name}", fixture.base)).send().await.unwrap();
        assert_eq!(file.headers()["content-type"], format!("{kind}; charset=utf-8"));
        assert_eq!(file.text().await.unwrap(), *text);
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

/// A subscriber that tells of one event and then stays connected.
fn telling() -> Router {
    let event =
        r#"{"kind":"applied","entity":"store","id":"42","version":7,"at":"2026-01-01T00:00:00Z"}"#;
    let events = async move || {
        let once = stream::iter([Ok::<_, Infallible>(format!("data: {event}\n\n"))]);
        axum::body::Body::from_stream(once.chain(stream::pending()))
    };
    let status = async || Json(json!({"entities": [{"entity": "store"}]}));
    Router::new().route("/nudge/v1/events", get(events)).route(roles::STATUS_PATH, get(status))
}

/// Reads frames until one of them fits, and returns its ID, too.
async fn frame(answer: &mut reqwest::Response, fits: impl Fn(&Value) -> bool) -> (String, Value) {
    let mut text = String::new();
    loop {
        let chunk = answer.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
            let read = |data| serde_json::from_str::<Value>(data).unwrap();
            let found = field("id: ").zip(field("data: ").map(read));
            if let Some((id, value)) = found.filter(|(_, value)| fits(value)) {
                return (id.to_owned(), value);
            }
            text = rest.to_owned();
        }
    }
}

#[tokio::test]
async fn a_page_is_told_of_all_subscribers_in_one_stream_that_ends_with_the_console() {
    let fixture = start(vec![(Service::Search, telling())]).await;
    let url = format!("{}/api/stream", fixture.base);
    let mut answer = fixture.client.get(&url).send().await.unwrap();
    let (_, first) = frame(&mut answer, |_| true).await;
    assert_eq!(first["snapshot"], true);
    let (seen, told) = frame(&mut answer, |frame| frame["keys"][0].is_object()).await;
    assert_eq!(
        (&told["keys"][0]["id"], &told["keys"][0]["by"]["search"]["version"]),
        (&"42".into(), &7.into())
    );
    // Another page is told what the first one was, and one that comes back only what it has not seen.
    let mut second = fixture.client.get(&url).send().await.unwrap();
    let (_, all) = frame(&mut second, |_| true).await;
    assert_eq!((&all["snapshot"], &all["keys"][0]["id"]), (&true.into(), &"42".into()));
    let resumed = fixture.client.get(&url).header("Last-Event-ID", seen).send();
    let (_, next) = frame(&mut resumed.await.unwrap(), |_| true).await;
    assert_eq!((&next["snapshot"], &next["keys"]), (&false.into(), &json!([])));
    fixture.stop.cancel();
    while answer.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn services_are_asked_only_while_a_page_looks() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let status = async move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Json(json!({"entities": [{"entity": "store"}]}))
    };
    let search = Router::new().route(roles::STATUS_PATH, get(status));
    let fixture = start(vec![(Service::Search, search)]).await;
    let mut answer =
        fixture.client.get(format!("{}/api/stream", fixture.base)).send().await.unwrap();
    for _ in 0..2 {
        frame(&mut answer, |frame| frame.get("view").is_some()).await;
    }
    drop(answer);
    let now = || asked.load(std::sync::atomic::Ordering::SeqCst);
    // Longer than between two looks; the one under way may still end.
    let quiet = async {
        loop {
            let before = now();
            tokio::time::sleep(4 * nudge_testbed::QUIET).await;
            if now() == before {
                return before;
            }
        }
    };
    let after =
        tokio::time::timeout(nudge_testbed::PATIENCE, quiet).await.expect("it is left alone");
    assert!(after >= 1);
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
    let of = |name: &str| {
        let services = body["services"].as_array().unwrap();
        services.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&of("charging")["answers"], &of("charging")["follows"][0]["entity"]),
        (&true.into(), &"station".into())
    );
    // Of the demo's services it is known what they are while they are away.
    assert_eq!(
        (&of("review")["answers"], &of("review")["is_subscriber"]),
        (&false.into(), &true.into())
    );
    assert_eq!(
        (&of("review")["owns"][0]["entity"], &of("review")["follows"][0]["entity"]),
        (&"review".into(), &"store".into())
    );
    assert_eq!(
        (&of("store-info")["is_subscriber"], &of("store-info")["follows"]),
        (&false.into(), &json!([]))
    );
    let listed = get("/api/services").await;
    assert!(listed.as_array().unwrap().contains(&json!({"name": "charging", "url": url})));
    // The broker is away, which only who asks for its consumers must know.
    assert_eq!(get("/api/holders").await["status"], 502);
    let missing = get("/readyz").await["not_ready"].take();
    assert!(!missing.as_array().unwrap().contains(&json!("charging")), "{missing}");
    assert_eq!(get("/api/charging/nudge/v1/status").await["service"], "charging-map");
}

#[tokio::test]
async fn the_story_of_an_entity_is_the_same_as_the_commands() {
    let status = json!({"service": "search", "entities": [{"entity": "store", "paused": true}]});
    let search = Router::new().route("/nudge/v1/status", get(async move || Json(status))).route(
        "/nudge/v1/keys/store",
        axum::routing::post(async |Json(asked): Json<Value>| {
            assert_eq!(asked, json!({"ids": ["강남/1"]}));
            Json(json!({"items": [{"id": "강남/1", "state": "idle", "applied": null}]}))
        }),
    );
    let fixture = start(vec![(Service::Search, search)]).await;
    let ask = async |path: &str| {
        let url = format!("{}/api/why/{path}", fixture.base);
        let answer = fixture.client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, story) = ask("store/%EA%B0%95%EB%82%A8%2F1").await;
    assert_eq!((status, &story["id"]), (200, &json!("강남/1")), "{story}");
    assert_eq!(story["findings"][0]["reason"], "owner_away", "{story}");
    let at = story["findings"].as_array().unwrap().iter().map(|one| &one["at"]);
    assert!(at.clone().any(|at| at == "search") && at.clone().any(|at| at == "review"), "{story}");
    let (status, problem) = ask("Store/1").await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("entity")));
    let (status, problem) = ask("store/a%00").await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("id")));
}
