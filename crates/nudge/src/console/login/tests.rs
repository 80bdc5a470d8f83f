use std::time::Duration;

use axum::routing::post;
use nudge_runtime::auth::{
    AuthArgs,
    sign::{Grant, SigningKey},
};
use nudge_runtime::tls;
use nudge_testbed::PATIENCE;
use reqwest::RequestBuilder;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    client::Service,
    stub::{self, Stubs},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A console that asks for tokens, in front of a service that says what it was sent.
struct Fixture {
    base: String,
    key: SigningKey,
    client: reqwest::Client,
    _directory: tempfile::TempDir,
    _stubs: Stubs,
}

async fn start() -> Fixture {
    let echo = async |headers: HeaderMap| {
        let sent =
            |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Json(
            json!({ "authorization": sent(header::AUTHORIZATION), "cookie": sent(header::COOKIE) }),
        )
    };
    let search = Router::new().route("/stores", get(echo)).route("/nudge/v1/pause", post(echo));
    let stubs = stub::start([(Service::Search, search)]).await;
    let (directory, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
    let jwks = directory.path().join("jwks.json");
    std::fs::write(&jwks, key.jwks().to_string()).unwrap();
    let args = AuthArgs {
        auth_issuer: Some("nudge".to_owned()),
        auth_jwks: Some(jwks.display().to_string()),
        ..AuthArgs::default()
    };
    let login = Login::asking(Admission::of(&args).unwrap(), 7100);
    let stop = CancellationToken::new();
    let console = Console::new(stubs.api.clone(), None, [].into(), None, stop).answering(login);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = super::super::router(console);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let client = tls::http().no_proxy().build().unwrap();
    Fixture { base, key, client, _directory: directory, _stubs: stubs }
}

impl Fixture {
    fn token(&self, scopes: &[Scope], life: Duration) -> String {
        let grant = Grant { subject: "kim".into(), scopes: scopes.into(), only: None };
        self.key.token("nudge", "nudge", &grant, life)
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn status(&self, request: RequestBuilder) -> u16 {
        request.send().await.unwrap().status().as_u16()
    }

    async fn log_in(&self, token: &str) -> reqwest::Response {
        self.ask(Method::POST, PATH).json(&json!({ "token": token })).send().await.unwrap()
    }

    /// Logs in, and returns what the browser sends from then on.
    async fn cookie(&self, token: &str) -> String {
        let answer = self.log_in(token).await;
        assert_eq!(answer.status(), 200);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
        cookie.split_once(';').unwrap().0.to_owned()
    }
}

#[tokio::test]
async fn without_a_token_there_is_the_page_and_nothing_on_it() {
    let fixture = start().await;
    for path in [
        "/api/status",
        "/api/services",
        "/api/holders",
        "/api/stream",
        "/api/why/store/42",
        "/api/search/stores",
    ] {
        assert_eq!(fixture.status(fixture.ask(Method::GET, path)).await, 401, "{path}");
    }
    for path in ["/api/search/nudge/v1/pause", "/api/chaos/hold"] {
        assert_eq!(fixture.status(fixture.ask(Method::POST, path)).await, 401, "{path}");
    }
    for path in ["/", "/app.js", "/livez", PATH] {
        assert_eq!(fixture.status(fixture.ask(Method::GET, path)).await, 200, "{path}");
    }
    let forged = fixture.ask(Method::GET, "/api/status").header("Cookie", "nudge-console-7100=");
    assert_eq!(fixture.status(forged).await, 401);
}

#[tokio::test]
async fn a_person_is_who_asks_the_services_until_they_log_out() {
    let fixture = start().await;
    let token = fixture.token(&[Scope::Observe, Scope::Read], HOUR);
    let answer = fixture.log_in(&token).await;
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["nudge-console-7100=", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let shown: Value = answer.json().await.unwrap();
    assert_eq!((&shown["subject"], &shown["scopes"]), (&json!("kim"), &json!(["read", "observe"])));
    assert!((3_500..=3_600).contains(&shown["seconds_left"].as_i64().unwrap()), "{shown}");
    assert!(!format!("{cookie}{shown}").contains(&token), "the token stays here");

    let cookie = cookie.split_once(';').unwrap().0.to_owned();
    let mine = |method, path| fixture.ask(method, path).header("Cookie", &cookie);
    let asked = mine(Method::GET, "/api/search/stores").send().await.unwrap();
    let asked: Value = asked.json().await.unwrap();
    assert_eq!(asked, json!({ "authorization": format!("Bearer {token}"), "cookie": null }));
    let mut stream = mine(Method::GET, "/api/stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let who: Value = mine(Method::GET, PATH).send().await.unwrap().json().await.unwrap();
    assert_eq!(who["subject"], "kim");
    // To break something is another's business.
    assert_eq!(fixture.status(mine(Method::POST, "/api/chaos/hold")).await, 403);

    assert_eq!(fixture.status(mine(Method::DELETE, PATH)).await, 204);
    let rest = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream ends with the session");
    assert_eq!(fixture.status(mine(Method::GET, "/api/search/stores")).await, 401);
    let who: Value = mine(Method::GET, PATH).send().await.unwrap().json().await.unwrap();
    assert_eq!(who, json!({ "asks": true }));
}

#[tokio::test]
async fn a_token_that_is_not_good_is_told_why_and_opens_nothing() {
    let fixture = start().await;
    let good = fixture.token(&[Scope::Read], HOUR);
    let stranger = SigningKey::generate().unwrap();
    let grant = Grant { subject: "kim".into(), scopes: Scope::ALL.into(), only: None };
    let stranger = stranger.token("nudge", "nudge", &grant, HOUR);
    // Services would take it for another minute.
    let expired = fixture.token(&Scope::ALL, Duration::ZERO);
    for (token, status, said) in [
        ("hunter2", 401, "not a JWT"),
        (&*stranger, 401, "signed with a key"),
        (&*good, 403, "the scope observe"),
        (&*expired, 401, "has expired"),
    ] {
        let answer = fixture.log_in(token).await;
        assert_eq!(answer.status(), status, "{said}");
        assert!(!answer.headers().contains_key(header::SET_COOKIE), "{said}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(said) && !text.contains(token), "{text}");
    }
    let malformed = fixture.ask(Method::POST, PATH).json(&json!({ "tokens": "hunter2" }));
    let answer = malformed.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let text = answer.text().await.unwrap();
    assert!(text.contains("\"token\"") && !text.contains("hunter2"), "{text}");
    // A form of another site can send this.
    let form = fixture.ask(Method::POST, PATH).header("Content-Type", "text/plain");
    assert_eq!(fixture.status(form.body("{}")).await, 415);
}

#[tokio::test]
async fn what_a_page_is_told_ends_when_its_token_expires() {
    let fixture = start().await;
    let cookie = fixture.cookie(&fixture.token(&[Scope::Observe], Duration::from_secs(2))).await;
    let mine = |path| fixture.ask(Method::GET, path).header("Cookie", &cookie);
    let mut stream = mine("/api/stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let rest = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("it ends");
    assert_eq!(fixture.status(mine("/api/stream")).await, 401);
    let who: Value = mine(PATH).send().await.unwrap().json().await.unwrap();
    assert_eq!(who, json!({ "asks": true }));
}

#[tokio::test]
async fn a_command_sends_its_token_with_each_request() {
    let fixture = start().await;
    let token = fixture.token(&[Scope::Observe], HOUR);
    let services = fixture.ask(Method::GET, "/api/services").bearer_auth(&token);
    assert_eq!(fixture.status(services).await, 200);
    let asked = fixture.ask(Method::GET, "/api/search/stores").bearer_auth(&token);
    let asked: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(asked["authorization"], format!("Bearer {token}"));
}

#[tokio::test]
async fn where_nobody_is_asked_there_is_no_login() {
    let login = Login::asking(Admission::of(&AuthArgs::default()).unwrap(), 7100);
    assert!(login.0.is_none());
}

#[test]
fn to_break_and_to_heal_needs_an_operator() {
    for (method, path, scope) in [
        (Method::GET, "/api/chaos", Scope::Observe),
        (Method::DELETE, "/api/chaos", Scope::Admin),
        (Method::POST, "/api/chaos/hold", Scope::Admin),
        (Method::POST, "/api/chaosx/hold", Scope::Observe),
        (Method::POST, "/api/search/nudge/v1/pause", Scope::Observe),
    ] {
        assert_eq!(needed(&method, path), scope, "{method} {path}");
    }
}
