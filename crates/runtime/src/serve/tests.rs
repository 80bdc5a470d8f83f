use std::{convert::Infallible, future::pending};

use axum::{
    body::Bytes,
    extract::Request,
    http::StatusCode,
    response::sse::{self, Sse},
    routing::{get, post},
};
use futures_util::Stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);
/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(3_600);
const PATIENT: Limits = Limits { connections: 8, head: LONG, body_pause: LONG, write_pause: LONG };

/// A server and how to reach it.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    /// What requests to `/gate` wait for.
    gate: CancellationToken,
    /// One permit for each that has waited for it.
    waiting: Arc<tokio::sync::Semaphore>,
    server: tokio::task::JoinHandle<()>,
}

/// Events without end.
async fn events() -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    Sse::new(futures_util::stream::pending())
}

async fn serve_tests(limits: Limits) -> Served {
    let (listener, address) = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let gate = CancellationToken::new();
    let waiting = Arc::new(tokio::sync::Semaphore::new(0));
    let (opened, entered) = (gate.clone(), waiting.clone());
    let wait = async move || {
        entered.add_permits(1);
        opened.cancelled().await;
    };
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/gate", get(wait.clone()))
        .route("/nudge/v1/wait", get(wait.clone()))
        .route("/nudge/v1/events", get(events))
        .route("/livez", get(async || "live"))
        .route("/metrics", get(async || "metrics"))
        .route("/nudge/v1/status", get(async || "status"))
        .route("/sync/v1/store/42", get(async || "state"))
        .route("/never", get(async || pending::<()>().await))
        .route("/much", get(async || vec![b'x'; 64 << 20]))
        .route(
            "/body",
            post(async |request: Request| {
                let body: Result<Bytes, _> = axum::body::to_bytes(request.into_body(), 1_000).await;
                body.map_or(StatusCode::BAD_REQUEST, |_| StatusCode::OK)
            }),
        );
    let stop = CancellationToken::new();
    let overload = Overload::new(limits.connections, None);
    let server = tokio::spawn(serve_within(listener, router, stop.clone(), limits, overload));
    Served { address, stop, gate, waiting, server }
}

impl Served {
    /// A connection on which this was said.
    async fn say(&self, words: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        stream
    }

    async fn get(&self) -> String {
        let mut stream =
            self.say("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        rest(&mut stream).await
    }
}

/// All that still comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // Cut off is closed, too.
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A request for a path. What follows the path is more of the head.
fn get_of(path: &str) -> String {
    let (path, headers) = path.split_once("\r\n").unwrap_or((path, "Accept: */*"));
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n")
}

/// The status of the next answer.
async fn status(stream: &mut TcpStream) -> String {
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    String::from_utf8_lossy(&start[9..]).into_owned()
}

#[tokio::test]
async fn only_loopback_is_bound() {
    let error = bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
    assert!(bind("127.0.0.1:0".parse().unwrap()).await.is_ok());
}

#[tokio::test]
async fn who_sends_no_whole_request_is_cut_off() {
    let served = serve_tests(Limits { head: SHORT, ..PATIENT }).await;
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    for words in ["", head] {
        let mut stream = served.say(words).await;
        assert!(!rest(&mut stream).await.contains("here"), "{words:?}");
    }
    // An answer does not make a connection that is idle any better.
    let mut stream = served.say(&format!("{head}\r\n")).await;
    assert!(rest(&mut stream).await.ends_with("here"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = serve_tests(PATIENT).await;
    let head = |bytes| {
        let token = "a".repeat(bytes);
        format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )
    };
    let mut stream = served.say(&head(100_000)).await;
    assert!(rest(&mut stream).await.ends_with("here"));
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // It may be cut off while it is still being sent.
    let _ = stream.write_all(head(2 * MAX_HEAD_BYTES).as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(served.get().await.ends_with("here"));
}

#[tokio::test]
async fn who_stops_within_a_body_is_told_so() {
    let served = serve_tests(Limits { body_pause: SHORT, ..PATIENT }).await;
    let head = "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n";
    let mut stream = served.say(&format!("{head}\r\nhalf")).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400 "));
    let mut stream = served.say(&format!("{head}Connection: close\r\n\r\nten  bytes")).await;
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let served = serve_tests(Limits { connections: 1, write_pause: SHORT, ..PATIENT }).await;
    let _deaf = served.say("GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answered = async {
        while !served.get().await.ends_with("here") {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("its place is another's");
}

#[tokio::test]
async fn however_many_connections_do_nothing_the_next_request_is_answered() {
    let served = serve_tests(PATIENT).await;
    let mut slow = Vec::new();
    for _ in 0..10 * PATIENT.connections {
        slow.push(served.say("GET / HTTP/1.1\r\nHost: ").await);
    }
    assert!(served.get().await.ends_with("here"));
    // The first of them have made room.
    assert_eq!(rest(&mut slow[0]).await, "");
}

#[tokio::test]
async fn when_all_are_at_work_who_comes_is_told_so() {
    let served = serve_tests(PATIENT).await;
    let mut busy = Vec::new();
    for _ in 0..PATIENT.connections {
        busy.push(served.say("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n").await);
    }
    let told = async {
        loop {
            let answer = served.get().await;
            if answer.starts_with("HTTP/1.1 503 ") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, told).await.expect("all places are taken");
    assert!(answer.contains("retry-after: 1") && answer.contains("problem+json"), "{answer}");
    drop(busy);
    let answered = async { while !served.get().await.ends_with("here") {} };
    tokio::time::timeout(PATIENCE, answered).await.expect("their places are free again");
}

/// Ten times as many ordinary requests as may be answered at a time, each of which takes as long as it likes.
#[tokio::test]
async fn under_ten_times_the_load_probes_operators_and_callbacks_are_answered_and_then_everybody() {
    let limits = Limits { connections: 64, ..PATIENT };
    let most = limits.connections * 5 / 16;
    let served = serve_tests(limits).await;
    let mut busy = Vec::new();
    for _ in 0..most {
        busy.push(served.say(&get_of("/gate")).await);
    }
    let entered = served.waiting.acquire_many(most as u32);
    let _full = tokio::time::timeout(PATIENCE, entered).await.expect("all are being answered");
    let refused = served.get().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("problem+json"), "{refused}");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    for n in 0..9 * most {
        let path = ["/", "/gate", "/never"][n % 3];
        assert_eq!(status(&mut served.say(&get_of(path)).await).await, "503");
        for path in ["/livez", "/nudge/v1/status", "/metrics", "/sync/v1/store/42"] {
            assert_eq!(status(&mut served.say(&get_of(path)).await).await, "200", "{path}");
        }
    }
    served.gate.cancel();
    for stream in &mut busy {
        assert_eq!(status(stream).await, "200");
    }
    drop(busy);
    let answered = async { while !served.get().await.ends_with("here") {} };
    tokio::time::timeout(PATIENCE, answered).await.expect("it is as before");
}

/// Everything that lasts as long as it likes, each kind until it is refused.
#[tokio::test]
async fn while_all_that_may_wait_or_watch_do_everybody_else_is_answered() {
    let served = serve_tests(Limits { connections: 64, ..PATIENT }).await;
    let ask = async |path: &str| served.say(&get_of(path)).await;
    let mut held = Vec::new();
    for path in ["/nudge/v1/wait", "/gate\r\nNudge-Token: store/42@17"] {
        for _ in 0..4 {
            held.push(ask(path).await);
        }
    }
    let entered = served.waiting.acquire_many(8);
    let _all = tokio::time::timeout(PATIENCE, entered).await.expect("all of them wait");
    for _ in 0..4 {
        let mut stream = ask("/nudge/v1/events").await;
        assert_eq!(status(&mut stream).await, "200");
        held.push(stream);
    }
    for path in ["/nudge/v1/wait", "/\r\nNudge-Token: store/42@17", "/nudge/v1/events"] {
        assert_eq!(status(&mut ask(path).await).await, "503", "{path}");
    }
    for path in ["/", "/livez", "/nudge/v1/status", "/metrics", "/sync/v1/store/42"] {
        assert_eq!(status(&mut ask(path).await).await, "200", "{path}");
    }
    served.gate.cancel();
    for stream in &mut held[..8] {
        assert_eq!(status(stream).await, "200");
    }
    drop(held);
    let again = async { while status(&mut ask("/nudge/v1/events").await).await != "200" {} };
    tokio::time::timeout(PATIENCE, again).await.expect("their places are free again");
}

#[tokio::test]
async fn a_page_from_elsewhere_is_refused_on_every_path() {
    let served = serve_tests(PATIENT).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: rebound.example",
        "POST /body HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0",
        "GET /none HTTP/1.1\r\nHost: localhost\r\nOrigin: null",
        "GET http://rebound.example/ HTTP/1.1\r\nHost: localhost",
        "GET / HTTP/1.0",
    ] {
        let mut stream = served.say(&format!("{request}\r\nConnection: close\r\n\r\n")).await;
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.0 403 "),
            "{request}: {answer}"
        );
        assert!(answer.contains("problem+json"), "{answer}");
    }
}

#[tokio::test]
async fn a_stop_closes_what_is_idle() {
    let served = serve_tests(PATIENT).await;
    let mut idle = served.say("").await;
    assert!(served.get().await.ends_with("here"));
    served.stop.cancel();
    assert_eq!(rest(&mut idle).await, "");
    tokio::time::timeout(PATIENCE, served.server).await.expect("it ends").unwrap();
}
