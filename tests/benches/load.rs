//! What a service answers while it gets up to ten times as many ordinary requests as it takes at a time.
//!
//! `cargo bench -p nudge-tests --bench load`. It needs about 6,000 open files (`ulimit -n`).

use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use nudge_runtime::serve::{self, MAX_CONNECTIONS};
use reqwest::Client;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

/// How many ordinary requests are answered at a time.
const CAPACITY: usize = MAX_CONNECTIONS * 5 / 16;
/// How long each takes.
const WORK: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_secs(4);
/// How long a client waits after it was refused: less than it is told.
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() {
    nudge_runtime::tls::install();
    let stop = CancellationToken::new();
    let listener = serve::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new()
        .route("/", get(async || sleep(WORK).await))
        .route("/livez", get(async || "live"))
        .route("/nudge/v1/status", get(async || "status"))
        .route("/sync/v1/store/42", get(async || "state"));
    tokio::spawn(serve::serve(listener, router, stop.clone()));
    println!("capacity: {CAPACITY} at a time, {:.0}/s", CAPACITY as f64 / WORK.as_secs_f64());
    for tenths in [5, 10, 20, 50, 100, 5] {
        let clients = CAPACITY * tenths / 10;
        let (ordinary, others) = tokio::join!(ordinary(&url, clients), others(&url));
        let (answered, refused, failed) = ordinary;
        let per_second = |count: usize| count as f64 / MEASURED.as_secs_f64();
        println!(
            "  {:>4.1} x capacity: {:>5.0}/s answered, {:>5.0}/s refused with 503, {failed} not answered; {others}",
            tenths as f64 / 10.0,
            per_second(answered),
            per_second(refused),
        );
    }
    stop.cancel();
}

/// How many requests of so many clients were answered, refused, and neither.
async fn ordinary(url: &str, clients: usize) -> (usize, usize, usize) {
    let (began, mut asking, http) = (Instant::now(), JoinSet::new(), Client::new());
    for _ in 0..clients {
        let (url, http) = (format!("{url}/"), http.clone());
        asking.spawn(async move {
            let mut counts = (0, 0, 0);
            while began.elapsed() < MEASURED {
                match http.get(&url).send().await.map(|answer| answer.status().as_u16()) {
                    Ok(200) => counts.0 += 1,
                    Ok(503) => {
                        counts.1 += 1;
                        sleep(PAUSE).await;
                    }
                    _ => counts.2 += 1,
                }
            }
            counts
        });
    }
    let mut all = (0, 0, 0);
    while let Some(one) = asking.join_next().await {
        let one = one.expect("it ends");
        all = (all.0 + one.0, all.1 + one.1, all.2 + one.2);
    }
    all
}

/// How the routes did that are kept free, each on new connections.
async fn others(url: &str) -> String {
    let (began, mut times, mut bad) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < MEASURED {
        for path in ["/livez", "/nudge/v1/status", "/sync/v1/store/42"] {
            let asked = Instant::now();
            let answer = Client::new().get(format!("{url}{path}")).send().await;
            bad += usize::from(!answer.is_ok_and(|answer| answer.status() == 200));
            times.push(asked.elapsed());
        }
        sleep(Duration::from_millis(20)).await;
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (p50, p99) = (at(0.5), at(0.99));
    format!("{} others: {bad} not answered, {p50:.1} ms (p50), {p99:.1} ms (p99)", times.len())
}
