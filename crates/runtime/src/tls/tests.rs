use std::{net::SocketAddr, time::Duration};

use axum::{Json, Router, routing::get};
use rcgen::date_time_ymd;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    authority::{Authority, Files, own},
    *,
};
use crate::{
    auth::{
        Admission, AuthArgs, Scope,
        sign::{Grant, SigningKey},
    },
    problem::chain,
    serve::{self, Limits},
};

fn auth_args(tls: TlsArgs) -> AuthArgs {
    AuthArgs { tls, ..AuthArgs::default() }
}

/// A listener with these certificates.
struct Server {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(tls: TlsArgs) -> Self {
        let admission = Admission::of(&auth_args(tls)).unwrap();
        let (listener, address) = admission.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let router = Router::new().route("/", get(async || "hello"));
        let task = tokio::spawn(admission.serve(listener, router, CancellationToken::new()));
        Self { address, _task: AbortOnDropHandle::new(task) }
    }

    /// A connection of its own. Returns the answer or why there was none.
    async fn ask(&self, client: &Tls) -> Result<String, String> {
        let http = client.http().no_proxy().build().unwrap();
        let answer = http.get(format!("https://localhost:{}/", self.address.port())).send().await;
        Ok(answer.map_err(|error| chain(&error))?.text().await.unwrap())
    }
}

/// A client that trusts this authority.
fn trusting(files: &Files, authority: &Authority) -> TlsArgs {
    TlsArgs { tls_ca_file: files.write("ca", &authority.pem), ..TlsArgs::default() }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_its_name_and_its_time() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new();
    let client = Tls::of(&trusting(&files, &authority)).unwrap();
    for (certificate, refusal) in [
        (authority.sign("localhost", |_| ()), None),
        (other.sign("localhost", |_| ()), Some("UnknownIssuer")),
        (authority.sign("store-info", |_| ()), Some("not valid for name")),
        (
            authority.sign("localhost", |params| params.not_after = date_time_ymd(2020, 1, 1)),
            Some("expired"),
        ),
        (
            authority.sign("localhost", |params| params.not_before = date_time_ymd(2200, 1, 1)),
            Some("not valid yet"),
        ),
    ] {
        let of_server = Files::new();
        let server = Server::start(own(&of_server, certificate)).await;
        let asked = server.ask(&client).await;
        match refusal {
            None => assert_eq!(asked, Ok("hello".to_owned())),
            Some(said) => {
                let error = asked.unwrap_err();
                assert!(error.contains("certificate") && error.contains(said), "{error}");
            }
        }
    }
    // The system does not know it.
    let of_server = Files::new();
    let server = Server::start(own(&of_server, authority.sign("localhost", |_| ()))).await;
    server.ask(&Tls::default()).await.unwrap_err();
}

#[tokio::test]
async fn clients_need_a_certificate_where_an_authority_for_them_is_set() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (of_server, of_client) = (Files::new(), Files::new());
    let args = TlsArgs {
        tls_client_ca_file: of_server.write("clients", &authority.pem),
        ..own(&of_server, authority.sign("localhost", |_| ()))
    };
    let server = Server::start(args).await;
    let trusting = trusting(&of_client, &authority);
    server.ask(&Tls::of(&trusting).unwrap()).await.expect_err("it shows none");
    for (signer, expected) in [(&authority, true), (&other, false)] {
        let own = own(&of_client, signer.sign("search", |_| ()));
        let args = TlsArgs { tls_ca_file: trusting.tls_ca_file.clone(), ..own };
        assert_eq!(server.ask(&Tls::of(&args).unwrap()).await.is_ok(), expected);
    }
    let expired = authority.sign("search", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let args = TlsArgs { tls_ca_file: trusting.tls_ca_file.clone(), ..own(&of_client, expired) };
    let client = Tls::of(&args).unwrap();
    server.ask(&client).await.unwrap_err();
    // It is renewed, and nobody starts again.
    own(&of_client, authority.sign("search", |_| ()));
    assert_eq!(server.ask(&client).await, Ok("hello".to_owned()));
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let (old, new) = (Authority::new(), Authority::new());
    let (of_server, of_client) = (Files::new(), Files::new());
    let server = Server::start(own(&of_server, old.sign("localhost", |_| ()))).await;
    let client = Tls::of(&trusting(&of_client, &old)).unwrap();
    server.ask(&client).await.unwrap();

    // Between the two files, and while one is broken, the old ones are used.
    let (cert, key) = new.sign("localhost", |_| ());
    of_server.write("cert", &cert);
    server.ask(&client).await.unwrap();
    of_server.write("cert", "-----BEGIN CERTIFICATE-----\nbroken");
    server.ask(&client).await.unwrap();
    of_server.write("cert", &cert);
    of_server.write("key", &key);
    server.ask(&client).await.unwrap_err();
    trusting(&of_client, &new);
    assert_eq!(server.ask(&client).await, Ok("hello".to_owned()));
}

#[tokio::test]
async fn whoever_does_not_encrypt_is_told_so_and_garbage_harms_nobody() {
    let authority = Authority::new();
    let (of_server, of_client) = (Files::new(), Files::new());
    let server = Server::start(own(&of_server, authority.sign("localhost", |_| ()))).await;
    let plain = http().no_proxy().build().unwrap();
    let answer = plain.get(format!("http://{}/", server.address)).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.text().await.unwrap().contains("https://"));
    for garbage in
        [&b"\x16\x03\x01\xff\xff"[..], b"\x16garbage garbage garbage garbage", b"\0\0\0\0"]
    {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    let client = Tls::of(&trusting(&of_client, &authority)).unwrap();
    assert_eq!(server.ask(&client).await, Ok("hello".to_owned()));
}

/// Handshakes that do not go on, and connections beyond the limit.
#[tokio::test]
async fn a_listener_in_tls_has_the_same_limits() {
    let authority = Authority::new();
    let (of_server, of_client) = (Files::new(), Files::new());
    let tls = Tls::of(&own(&of_server, authority.sign("localhost", |_| ()))).unwrap();
    let (listener, address) = serve::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let limits = Limits { connections: 1, head: Duration::from_millis(300), ..Limits::default() };
    let held = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let (gate, asked) = (held.clone(), std::sync::Arc::new(tokio::sync::Notify::new()));
    let busy = asked.clone();
    let router = Router::new().route(
        "/",
        get(async move || {
            busy.notify_one();
            gate.acquire().await.unwrap().forget();
            "hello"
        }),
    );
    let stop = CancellationToken::new();
    let task = serve::serve_to_all(listener, router, stop.clone(), limits, tls.acceptor().cloned());
    let task = tokio::spawn(task);
    let server = Server { address, _task: AbortOnDropHandle::new(task) };

    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"\x16").await.unwrap();
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty(), "its time is over");

    let client = Tls::of(&trusting(&of_client, &authority)).unwrap();
    let first = server.ask(&client);
    let second = async {
        asked.notified().await;
        let refused = server.ask(&client).await;
        held.add_permits(1);
        refused
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first, Ok("hello".to_owned()));
    assert!(second.unwrap().contains("too many requests"));
    stop.cancel();
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_setting() {
    let authority = Authority::new();
    let files = Files::new();
    let good = own(&files, authority.sign("localhost", |_| ()));
    let another = files.write("another", &authority.sign("localhost", |_| ()).1);
    let secret = files.write("secret", "-----BEGIN PRIVATE KEY-----\nhunter2");
    let huge = files.write("huge", &"x".repeat(MAX_PEM_BYTES as usize + 1));
    let missing = Some(files.path("missing"));
    for (args, said) in [
        (TlsArgs { tls_cert_file: missing.clone(), ..good.clone() }, "TLS_CERT_FILE: "),
        (TlsArgs { tls_cert_file: secret.clone(), ..good.clone() }, "contains no certificate"),
        (TlsArgs { tls_key_file: secret, ..good.clone() }, "TLS_KEY_FILE: "),
        (TlsArgs { tls_key_file: another, ..good.clone() }, "TLS_CERT_FILE: "),
        (TlsArgs { tls_client_ca_file: missing, ..good.clone() }, "TLS_CLIENT_CA_FILE: "),
        (TlsArgs { tls_ca_file: huge, ..good.clone() }, "at most 1048576 bytes"),
    ] {
        let error = chain(&Tls::of(&args).unwrap_err());
        assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
    }
    let shown = format!("{:?}", Tls::of(&good).unwrap());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn other_addresses_than_loopback_need_tokens_and_tls() {
    let authority = Authority::new();
    let files = Files::new();
    let tls = own(&files, authority.sign("localhost", |_| ()));
    let jwks = files.write("jwks", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
    let jwks = jwks.map(|path| path.display().to_string());
    for (issuer, encrypted, behind_proxy, allowed) in [
        (true, true, false, true),
        (true, false, true, true),
        (true, false, false, false),
        (false, true, false, false),
        (false, false, true, false),
    ] {
        let tls = if encrypted { tls.clone() } else { TlsArgs::default() };
        let args = AuthArgs {
            auth_issuer: issuer.then(|| "issuer".to_owned()),
            auth_jwks: jwks.clone().filter(|_| issuer),
            behind_proxy,
            ..auth_args(tls)
        };
        let admission = Admission::of(&args).unwrap();
        // None of this machine's: that it cannot be listened on is another error.
        let listened = admission.listen("192.0.2.1:0".parse().unwrap()).await;
        let refused = matches!(listened, Err(serve::BindError::NotLoopback(_)));
        assert_eq!(!refused, allowed, "{issuer} {encrypted} {behind_proxy}");
    }
}

/// Discovery and keys, and one whose configuration leads out of TLS.
#[tokio::test]
async fn an_issuers_keys_come_in_tls() {
    let authority = Authority::new();
    let (of_issuer, of_service) = (Files::new(), Files::new());
    let key = SigningKey::generate().unwrap();
    let admission =
        Admission::of(&auth_args(own(&of_issuer, authority.sign("localhost", |_| ())))).unwrap();
    let (listener, address) = admission.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (issuer, jwks) = (format!("https://localhost:{}", address.port()), key.jwks());
    let about = |scheme: &str| json!({ "jwks_uri": format!("{scheme}://localhost:{}/keys", address.port()) });
    let (good, bad) = (about("https"), about("http"));
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(async || Json(good)))
        .route("/bad/.well-known/openid-configuration", get(async || Json(bad)))
        .route("/keys", get(async || Json(jwks)));
    let task = tokio::spawn(admission.serve(listener, router, CancellationToken::new()));
    let _issuer = AbortOnDropHandle::new(task);
    for (issuer, trusts, expected) in [
        (issuer.clone(), true, 200),
        (issuer.clone(), false, 503),
        (format!("{issuer}/bad"), true, 503),
    ] {
        let tls = if trusts { trusting(&of_service, &authority) } else { TlsArgs::default() };
        let args = AuthArgs { auth_issuer: Some(issuer.clone()), ..auth_args(tls) };
        let service = Admission::of(&args).unwrap();
        let (listener, address) = service.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let router = Router::new().route("/", get(async || "hello"));
        let task = tokio::spawn(service.serve(listener, router, CancellationToken::new()));
        let _service = AbortOnDropHandle::new(task);
        let grant = Grant { scopes: vec![Scope::Read], ..Grant::default() };
        let token = key.token(&issuer, "nudge", &grant, Duration::from_secs(60));
        let request = http().no_proxy().build().unwrap().get(format!("http://{address}/"));
        let answer = request.bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{issuer}");
    }
}
