//! Tokens as they may come, and issuers as they may behave.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    routing::{any, get, post, put},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use super::{
    AuthArgs, Caller, Scope, VARIABLES,
    admission::{Admission, Asked},
    keys::{MAX_WAITING, MIN_REFRESH},
    sign::{Grant, SigningKey},
    verifier::MAX_TOKEN_BYTES,
};
use crate::{
    serve::{self, Peer},
    tls,
};

const ISSUER: &str = "http://issuer.test";
const AUDIENCE: &str = "nudge";
const HOUR: Duration = Duration::from_secs(3_600);

fn args(jwks: &str) -> AuthArgs {
    AuthArgs {
        auth_issuer: Some(ISSUER.to_owned()),
        auth_audience: AUDIENCE.to_owned(),
        auth_jwks: Some(jwks.to_owned()),
        ..AuthArgs::default()
    }
}

fn write(path: &Path, keys: &Value) {
    // As whoever renews it should: no reader finds half of it.
    let new = path.with_extension("new");
    std::fs::write(&new, keys.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A service with a key set in a file.
struct Guarded {
    router: Router,
    key: SigningKey,
    directory: tempfile::TempDir,
}

impl Guarded {
    fn new() -> Self {
        let key = SigningKey::generate().unwrap();
        Self::with_keys(key, |jwks| jwks)
    }

    fn with_keys(key: SigningKey, keys: impl FnOnce(Value) -> Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwks.json");
        write(&path, &keys(key.jwks()));
        let admission = Admission::of(&args(path.to_str().unwrap())).unwrap();
        Self { router: guarded(admission), key, directory }
    }

    fn token(&self, scopes: &[Scope]) -> String {
        let grant = Grant { subject: "kim".into(), scopes: scopes.into(), only: None };
        self.key.token(ISSUER, AUDIENCE, &grant, HOUR)
    }

    /// Asks with this `Authorization`. Returns the status, the challenge and the detail.
    async fn ask(&self, authorization: &str) -> (StatusCode, String, String) {
        ask(&self.router, authorization).await
    }

    async fn ask_with(&self, token: &str) -> (StatusCode, String, String) {
        self.ask(&format!("Bearer {token}")).await
    }
}

fn guarded(admission: Admission) -> Router {
    let who = async |Extension(caller): Extension<Arc<Caller>>| caller.subject.clone();
    let router = Router::new().route("/stores", get(who)).route("/livez", any(async || "alive"));
    admission.guard(router)
}

async fn ask(router: &Router, authorization: &str) -> (StatusCode, String, String) {
    let mut request = Request::get("/stores");
    if !authorization.is_empty() {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map_or("", |value| value.to_str().unwrap()).to_owned();
    let problem = response.headers()[header::CONTENT_TYPE] == crate::problem::PROBLEM_JSON;
    let body = axum::body::to_bytes(response.into_body(), 100_000).await.unwrap();
    let detail = match problem {
        true => {
            serde_json::from_slice::<Value>(&body).unwrap()["detail"].as_str().unwrap().to_owned()
        }
        false => String::from_utf8(body.into()).unwrap(),
    };
    assert_eq!(problem, !status.is_success(), "{status}: {detail}");
    (status, challenge, detail)
}

fn now() -> i64 {
    crate::clock::now().unix_micros() / 1_000_000
}

/// A token of exactly these parts.
fn made(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": [AUDIENCE, "other"], "sub": "kim", "scope": "read",
            "exp": now() + 60 })
}

#[tokio::test]
async fn without_a_token_nothing_is_answered_but_the_probes() {
    let service = Guarded::new();
    let (status, challenge, detail) = service.ask("").await;
    assert_eq!((status, &*challenge), (StatusCode::UNAUTHORIZED, "Bearer realm=\"nudge\""));
    assert!(detail.contains("Authorization: Bearer"), "{detail}");
    for path in ["/livez", "/nowhere"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let status = service.router.clone().oneshot(request).await.unwrap().status();
        let expected = if path == "/livez" { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(status, expected, "{path}");
    }
    let (status, _, body) = service.ask_with(&service.token(&[Scope::Read])).await;
    assert_eq!((status, &*body), (StatusCode::OK, "kim"));
    let (status, challenge, _) = service.ask_with(&service.token(&[Scope::Write])).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(challenge, "Bearer realm=\"nudge\", error=\"insufficient_scope\", scope=\"read\"");
}

#[tokio::test]
async fn what_is_no_bearer_token_is_told_so() {
    let service = Guarded::new();
    let good = service.token(&[Scope::Read]);
    let only = Some((0..1_000).map(|id| format!("stores/{id}")).collect());
    let grant = Grant { subject: "kim".into(), scopes: vec![Scope::Read], only };
    let long = service.key.token(ISSUER, AUDIENCE, &grant, HOUR);
    assert!(long.len() > MAX_TOKEN_BYTES);
    for (authorization, said) in [
        ("Basic a2ltOmtpbQ==".to_owned(), "send a token"),
        ("Bearer".to_owned(), "send a token"),
        (good.clone(), "send a token"),
        (format!("Bearer {long}"), "not a JWT"),
        ("Bearer ".to_owned(), "not a JWT"),
        ("Bearer a.b".to_owned(), "not a JWT"),
        ("Bearer ..".to_owned(), "not a JWT"),
        (format!("Bearer {good}.{good}"), "not a JWT"),
        (format!("Bearer {good} {good}"), "not a JWT"),
        (format!("Bearer {}", "a".repeat(100_000)), "not a JWT"),
        (format!("Bearer {}{good}", "a".repeat(8_000)), "not a JWT"),
    ] {
        let (status, challenge, detail) = service.ask(&authorization).await;
        let shown = &authorization[..authorization.len().min(40)];
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{shown}");
        assert!(
            challenge.starts_with("Bearer realm=\"nudge\"") && detail.contains(said),
            "{shown}: {detail}"
        );
    }
    // The word is written in any case.
    assert_eq!(service.ask(&format!("bearer  {good}")).await.0, StatusCode::OK);
    let twice = Request::get("/stores")
        .header(header::AUTHORIZATION, format!("Bearer {good}"))
        .header(header::AUTHORIZATION, format!("Bearer {good}"));
    let answer = service.router.clone().oneshot(twice.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_is_good_only_as_its_issuer_made_it() {
    let service = Guarded::new();
    let grant = Grant { subject: "kim".into(), scopes: vec![Scope::Read], only: None };
    let kid = service.key.jwks()["keys"][0]["kid"].clone();
    let sign = |issuer, audience| service.key.token(issuer, audience, &grant, HOUR);
    let good = sign(ISSUER, AUDIENCE);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let flipped = match signature.starts_with('A') {
        true => format!("{head}.B{}", &signature[1..]),
        false => format!("{head}.A{}", &signature[1..]),
    };
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let eddsa = json!({ "alg": "EdDSA", "kid": kid });
    let own = |claims: Value| made(&eddsa, &claims, |text| service.key.sign(text));
    let another = SigningKey::generate().unwrap();
    let x = URL_SAFE_NO_PAD.decode(service.key.jwks()["keys"][0]["x"].as_str().unwrap()).unwrap();
    let hs256 = json!({ "alg": "HS256", "kid": kid });
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &x);
    for (token, said) in [
        (flipped, "signature is wrong"),
        (sign("http://other.test", AUDIENCE), "another issuer"),
        (sign(ISSUER, "somebody"), "another audience"),
        (another.token(ISSUER, AUDIENCE, &grant, HOUR), "does not have"),
        (made(&eddsa, &claims(), |text| another.sign(text)), "signature is wrong"),
        (made(&json!({ "alg": "none" }), &claims(), |_| Vec::new()), "not a JWT"),
        (made(&hs256, &claims(), |text| hmac::sign(&secret, text).as_ref().to_vec()), "algorithm"),
        (own(with("exp", json!(now() - 61))), "expired"),
        (own(with("nbf", json!(now() + 120))), "not valid yet"),
        (own(with("exp", Value::Null)), "exp"),
        (own(with("exp", json!("tomorrow"))), "exp"),
        (own(with("iss", Value::Null)), "iss"),
        (own(with("aud", Value::Null)), "aud"),
        (own(with("aud", json!(7))), "aud"),
        (own(json!([])), "not a JWT"),
        (own(with("scope", json!(7))), "not a JWT"),
        (own(with("nudge_only", json!("stores/42"))), "not a JWT"),
        (
            made(&json!({ "alg": "EdDSA", "crit": ["x"], "x": 1 }), &claims(), |text| {
                service.key.sign(text)
            }),
            "not a JWT",
        ),
    ] {
        let (status, challenge, detail) = service.ask_with(&token).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{said}: {detail}");
        assert!(detail.contains(said), "{said}: {detail}");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    // The clocks may differ a little, and a token need not say which key it was signed with.
    for (header, claims) in [
        (eddsa.clone(), with("exp", json!(now() - 50))),
        (eddsa.clone(), with("nbf", json!(now() + 50))),
        (json!({ "alg": "EdDSA" }), claims()),
        (eddsa.clone(), with("aud", json!(AUDIENCE))),
        (eddsa.clone(), with("exp", json!(now() as f64 + 0.5))),
    ] {
        let token = made(&header, &claims, |text| service.key.sign(text));
        let (status, _, body) = service.ask_with(&token).await;
        assert_eq!((status, &*body), (StatusCode::OK, "kim"), "{header} {claims}");
    }
}

/// A token of this key, but for its signature.
fn forged(key: &SigningKey) -> String {
    let grant = Grant { scopes: vec![Scope::Read], ..Grant::default() };
    let token = key.token(ISSUER, AUDIENCE, &grant, HOUR);
    let (text, signature) = token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    format!("{text}.{other}{}", &signature[1..])
}

/// Asks with this token from this address.
async fn ask_from(router: &Router, token: &str, from: &str) -> StatusCode {
    let from = Peer(from.parse().unwrap());
    let request = Request::get("/stores").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let request = request.extension(from).body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let busy = answer.status() == StatusCode::TOO_MANY_REQUESTS;
    assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), busy);
    answer.status()
}

/// Asks with this token from this address until that is answered with this status. Returns how many answers were others.
async fn ask_until(router: &Router, token: &str, from: &str, expected: StatusCode) -> usize {
    let asked = async {
        let mut others = 0;
        while ask_from(router, token, from).await != expected {
            others += 1;
        }
        others
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it is answered so")
}

#[tokio::test]
async fn who_sends_many_bad_tokens_is_refused_before_they_are_checked_and_nobody_else_is() {
    let service = Guarded::new();
    let used = service.token(&[Scope::Read]);
    let of = |subject: String| {
        let grant = Grant { subject, scopes: vec![Scope::Read], only: None };
        service.key.token(ISSUER, AUDIENCE, &grant, HOUR)
    };
    let flood = async |bad: &str, from| {
        ask_until(&service.router, bad, from, StatusCode::TOO_MANY_REQUESTS).await
    };
    let passes = async |token: &str, from| {
        ask_until(&service.router, token, from, StatusCode::OK).await == 0
    };
    assert!(passes(&used, "192.0.2.1").await);
    let forged = forged(&service.key);
    assert!(flood(&forged, "192.0.2.1").await <= 1_000);
    // Whoever shares the address and is known goes on; whoever is not waits for a moment.
    assert!(passes(&used, "192.0.2.1").await && passes(&used, "192.0.2.2").await);
    // Text that no signature has to be checked for costs nothing, and locks nobody out.
    for _ in 0..2_000 {
        let status = ask_from(&service.router, "a.b.c", "192.0.2.3").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    // The wait may be over just as the next comes.
    let mut refused = false;
    for n in 0..100 {
        flood(&forged, "192.0.2.1").await;
        refused |= !passes(&of(format!("new-{n}")), "192.0.2.1").await;
    }
    assert!(refused, "each new token from there has been looked at");
    assert!(passes(&of("new".to_owned()), "192.0.2.2").await);
}

/// Behind a proxy the address is everybody's.
#[tokio::test]
async fn behind_a_proxy_it_takes_far_more_bad_tokens() {
    let (directory, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
    let path = directory.path().join("jwks.json");
    write(&path, &key.jwks());
    let proxied = AuthArgs { behind_proxy: true, ..args(path.to_str().unwrap()) };
    let router = guarded(Admission::of(&proxied).unwrap());
    let forged = forged(&key);
    let others = ask_until(&router, &forged, "192.0.2.1", StatusCode::TOO_MANY_REQUESTS).await;
    assert!(others >= 1_000, "{others}");
}

/// The listener says where a request came from.
#[tokio::test]
async fn a_listener_refuses_who_sends_many_bad_tokens() {
    let (directory, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
    let path = directory.path().join("jwks.json");
    write(&path, &key.jwks());
    let admission = Admission::of(&args(path.to_str().unwrap())).unwrap();
    let (listener, address) = admission.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(admission.serve(listener, Router::new(), stop));
    tls::install();
    let (client, forged) = (reqwest::Client::new(), forged(&key));
    let asked = async {
        loop {
            let request = client.get(format!("http://{address}/stores")).bearer_auth(&forged);
            let answer = request.send().await.unwrap();
            if answer.status() == 429 {
                return answer.json::<Value>().await.unwrap();
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it is refused");
    assert!(told["detail"].as_str().unwrap().contains("were not good"), "{told}");
}

#[tokio::test]
async fn each_kind_of_public_key_verifies_its_own_algorithm_and_no_other() {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
        .unwrap();
    let rsa = RsaKeyPair::from_pkcs8(include_bytes!("test-rsa.pk8")).unwrap();
    let point = ec.public_key().as_ref();
    let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public());
    let (n, e) = (base64(&public.n), base64(&public.e));
    let service = Guarded::with_keys(SigningKey::generate().unwrap(), |mut jwks| {
        let keys = jwks["keys"].as_array_mut().unwrap();
        keys.push(json!({ "kty": "RSA", "kid": "r", "use": "sig", "n": n, "e": e }));
        keys.push(json!({ "kty": "EC", "crv": "P-256", "kid": "e", "alg": "ES256",
                          "x": base64(&point[1..33]), "y": base64(&point[33..]) }));
        // For encryption, for another algorithm, of a kind that is yet to be invented, and secret.
        keys.push(json!({ "kty": "RSA", "kid": "enc", "use": "enc", "n": n, "e": e }));
        keys.push(json!({ "kty": "RSA", "kid": "512", "alg": "RS512", "n": n, "e": e }));
        keys.push(json!({ "kty": "new", "kid": "new" }));
        keys.push(
            json!({ "kty": "oct", "kid": "oct", "k": base64(b"hunter2hunter2hunter2hunter2hunt") }),
        );
        jwks
    });
    let sign_rsa = |text: &[u8]| {
        let mut signature = vec![0; rsa.public().modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature).unwrap();
        signature
    };
    let sign_ec = |text: &[u8]| ec.sign(&random, text).unwrap().as_ref().to_vec();
    let rs256 = |kid: &str| made(&json!({ "alg": "RS256", "kid": kid }), &claims(), sign_rsa);
    let es256 = |kid: &str| made(&json!({ "alg": "ES256", "kid": kid }), &claims(), sign_ec);
    for good in [rs256("r"), es256("e")] {
        assert_eq!(service.ask_with(&good).await.0, StatusCode::OK);
    }
    let secret = hmac::Key::new(hmac::HMAC_SHA256, b"hunter2hunter2hunter2hunter2hunt");
    let hs256 = json!({ "alg": "HS256", "kid": "oct" });
    let hs256 = made(&hs256, &claims(), |text| hmac::sign(&secret, text).as_ref().to_vec());
    for bad in [rs256("e"), rs256("enc"), rs256("512"), rs256("new"), es256("r"), hs256] {
        assert_eq!(service.ask_with(&bad).await.0, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn keys_in_a_file_are_changed_without_a_restart() {
    let mut service = Guarded::new();
    let old = service.token(&[Scope::Read]);
    assert_eq!(service.ask_with(&old).await.0, StatusCode::OK);
    let path = service.directory.path().join("jwks.json");
    let ask = async |service: &Guarded, token: &str, expected| {
        let asked = async {
            while service.ask_with(token).await.0 != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asked)
            .await
            .expect("the keys are read again");
    };
    // Nonsense changes nothing.
    std::fs::write(&path, "{").unwrap();
    let new = SigningKey::generate().unwrap();
    let unknown =
        new.token(ISSUER, AUDIENCE, &Grant { scopes: vec![Scope::Read], ..Grant::default() }, HOUR);
    assert_eq!(service.ask_with(&unknown).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(service.ask_with(&old).await.0, StatusCode::OK);
    write(&path, &new.jwks());
    // What was verified with the old key is not remembered beyond it.
    ask(&service, &old, StatusCode::UNAUTHORIZED).await;
    ask(&service, &unknown, StatusCode::OK).await;
    service.key = new;
    assert_eq!(service.ask_with(&service.token(&[Scope::Read])).await.0, StatusCode::OK);
}

/// An issuer that counts how often it is asked for its keys.
struct Issuer {
    address: SocketAddr,
    jwks: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Issuer {
    async fn start(jwks: Option<Value>) -> Self {
        let (listener, address) = serve::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (jwks, asked) = (Arc::new(Mutex::new(jwks)), Arc::new(AtomicUsize::new(0)));
        let (keys, counted) = (jwks.clone(), asked.clone());
        let answer = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let keys = keys.lock().clone();
            std::future::ready(keys.map(axum::Json).ok_or(StatusCode::BAD_GATEWAY))
        };
        let about = json!({ "issuer": ISSUER, "jwks_uri": format!("http://{address}/keys") });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async || axum::Json(about)))
            .route("/keys", get(answer));
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(listener, router, stop.clone()));
        Self { address, jwks, asked, _stop: stop.drop_guard() }
    }
}

#[tokio::test]
async fn an_issuer_is_found_by_its_configuration_and_asked_at_a_bounded_rate() {
    let key = SigningKey::generate().unwrap();
    let issuer = Issuer::start(Some(key.jwks())).await;
    let url = format!("http://{}", issuer.address);
    let args = AuthArgs { auth_issuer: Some(url.clone()), auth_jwks: None, ..args("") };
    let router = guarded(Admission::of(&args).unwrap());
    let grant = Grant { scopes: vec![Scope::Read], ..Grant::default() };
    let good = format!("Bearer {}", key.token(&url, AUDIENCE, &grant, HOUR));
    assert_eq!(ask(&router, &good).await.0, StatusCode::OK);
    for _ in 0..20 {
        let stranger = SigningKey::generate().unwrap().token(&url, AUDIENCE, &grant, HOUR);
        let (status, _, detail) = ask(&router, &format!("Bearer {stranger}")).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(detail.contains("does not have"), "{detail}");
    }
    assert_eq!(ask(&router, &good).await.0, StatusCode::OK);
    // Once at first, and once in each interval: strangers cannot make us ask more often.
    let asked = issuer.asked.load(Ordering::Relaxed);
    assert!((1..=2).contains(&asked), "{asked}");
}

/// Each waits with its connection open.
#[tokio::test]
async fn no_more_than_some_requests_wait_for_an_issuer_that_does_not_answer() {
    let (listener, address) = serve::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let router = guarded(Admission::of(&args(&format!("http://{address}/keys"))).unwrap());
    let stranger = SigningKey::generate().unwrap();
    let token = stranger.token(ISSUER, AUDIENCE, &Grant::default(), HOUR);
    let token = format!("Bearer {token}");
    let mut asking: FuturesUnordered<_> = (0..=MAX_WAITING).map(|_| ask(&router, &token)).collect();
    let (status, _, detail) = asking.next().await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{detail}");
    // It was refused at once, while the issuer had accepted and said nothing.
    assert_eq!(asking.len(), MAX_WAITING);
    assert!(asking.next().now_or_never().is_none(), "the others wait");
    drop(listener);
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_makes_nobody_wrong() {
    let key = SigningKey::generate().unwrap();
    let issuer = Issuer::start(None).await;
    let jwks = format!("http://{}/keys", issuer.address);
    let router = guarded(Admission::of(&args(&jwks)).unwrap());
    let grant = Grant { scopes: vec![Scope::Read], ..Grant::default() };
    let good = format!("Bearer {}", key.token(ISSUER, AUDIENCE, &grant, HOUR));
    let (status, _, detail) = ask(&router, &good).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{detail}");
    *issuer.jwks.lock() = Some(key.jwks());
    let recovered = async {
        while ask(&router, &good).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(MIN_REFRESH * 6, recovered).await.expect("it is asked again");
    // It signs with another key from now on.
    let new = SigningKey::generate().unwrap();
    *issuer.jwks.lock() = Some(new.jwks());
    let by_new = |subject: &str| {
        let grant = Grant { subject: subject.into(), ..grant.clone() };
        format!("Bearer {}", new.token(ISSUER, AUDIENCE, &grant, HOUR))
    };
    let rotated = async {
        while ask(&router, &by_new("kim")).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(MIN_REFRESH * 6, rotated).await.expect("the new key is found");
    assert_eq!(ask(&router, &good).await.0, StatusCode::UNAUTHORIZED, "the old one is withdrawn");
    // What is known stays good while it is down: also for a token that was never seen before.
    *issuer.jwks.lock() = None;
    let asked = issuer.asked.load(Ordering::Relaxed);
    let stranger = SigningKey::generate().unwrap().token(ISSUER, AUDIENCE, &grant, HOUR);
    let failed = async {
        while issuer.asked.load(Ordering::Relaxed) == asked {
            let (status, ..) = ask(&router, &format!("Bearer {stranger}")).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(MIN_REFRESH * 6, failed).await.expect("it is asked in vain");
    assert_eq!(ask(&router, &by_new("lee")).await.0, StatusCode::OK);
}

/// What the log says, one JSON object a line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_changes_something_is_logged_with_what_is_asked_even_if_it_goes_away() {
    let service = Guarded::new();
    let jwks = service.directory.path().join("jwks.json");
    let done = async || (Extension(Asked("entity=store".into())), StatusCode::ACCEPTED);
    let routes = Router::new()
        .route("/nudge/v1/resync", post(done))
        .route("/stores/{id}", put(async || std::future::pending::<()>().await));
    let router = Admission::of(&args(jwks.to_str().unwrap())).unwrap().guard(routes);
    let log = Log::default();
    let writer = log.clone();
    let lines =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(lines.finish());
    let token = service.token(&[Scope::Write, Scope::Admin]);
    let send = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let sent = router.clone().oneshot(request.body(Body::empty()).unwrap());
        tokio::time::timeout(Duration::from_millis(100), sent).await.is_ok()
    };
    assert!(send("POST", "/nudge/v1/resync?x=1").await);
    assert!(!send("PUT", "/stores/42").await, "it is still at work when its client goes away");
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let audit: Vec<_> = lines.iter().filter(|line| line["target"] == "audit").collect();
    assert_eq!(audit.len(), 2, "{text}");
    let [asked, left] = [audit[0], audit[1]];
    assert_eq!((&asked["subject"], &asked["status"]), (&json!("kim"), &json!(202)), "{text}");
    assert_eq!((&asked["query"], &asked["asked"]), (&json!("x=1"), &json!("entity=store")));
    assert_eq!((&left["path"], left.get("status")), (&json!("/stores/42"), None), "{text}");
}

#[test]
fn every_variable_is_listed() {
    let command = <AuthArgs as clap::Args>::augment_args(clap::Command::new("program"));
    let named: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let all: Vec<_> = VARIABLES.into_iter().chain(tls::VARIABLES).collect();
    assert_eq!(named, all);
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secret = json!({ "keys": [{ "kty": "oct", "k": "aHVudGVyMg" }] }).to_string();
    for (jwks, issuer, said) in [
        (Some("/nowhere".to_owned()), ISSUER, "AUTH_JWKS: /nowhere"),
        (Some(file("empty", "")), ISSUER, "not what was expected"),
        (Some(file("none", r#"{"keys":[]}"#)), ISSUER, "no key"),
        (Some(file("secret", &secret)), ISSUER, "no key"),
        (Some("ftp://issuer.test/keys".to_owned()), ISSUER, "AUTH_JWKS: ftp://issuer.test/keys"),
        (Some("http://issuer.test/keys".to_owned()), ISSUER, "AUTH_JWKS: issuer.test"),
        (None, "http://issuer.test", "AUTH_ISSUER: issuer.test"),
        (None, "ftp://issuer.test", "AUTH_ISSUER: ftp://issuer.test"),
        (None, "issuer", "AUTH_ISSUER: issuer is not a URL"),
    ] {
        let args = AuthArgs { auth_issuer: Some(issuer.to_owned()), auth_jwks: jwks, ..args("") };
        let refused = crate::problem::chain(&Admission::of(&args).unwrap_err());
        assert!(refused.contains(said) && !refused.contains("aHVudGVyMg"), "{refused}");
    }
}
