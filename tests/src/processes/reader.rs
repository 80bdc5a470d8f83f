//! A stream of reads of a read model. While its program is up, each read must be answered, and versions must not go
//! back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nudge_protocol::subject::encode_token;
use nudge_testbed::edits::store_id;
use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    client,
    roster::{Place, Roster},
};
use crate::Service;

/// Longest time that a read of a program that is up may take. A longer one hangs, which is a fault.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two reads.
const PACE: Duration = Duration::from_millis(20);

/// The results of the reads.
#[derive(Debug, Default)]
pub struct Reads {
    /// Number of answers.
    pub good: u64,
    /// Longest time between two answers while some replica was up.
    pub longest_gap: Duration,
    /// What went wrong.
    pub faults: Vec<String>,
    newest: BTreeMap<String, u64>,
}

/// See the module documentation. Stopped when dropped.
pub struct Reader {
    task: JoinHandle<Reads>,
    stop: CancellationToken,
}

impl Reader {
    /// Starts to read from those replicas of a subscriber that are up, in turn.
    pub fn start(roster: &Roster, service: Service) -> Self {
        let stop = CancellationToken::new();
        let reading = read(roster.clone(), service, stop.clone());
        Self { task: tokio::spawn(reading), stop }
    }

    /// Stops, and returns the results.
    pub async fn finish(mut self) -> Reads {
        self.stop.cancel();
        (&mut self.task).await.expect("no panic")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn read(roster: Roster, service: Service, stop: CancellationToken) -> Reads {
    let (http, mut reads, mut last) = (client(TIMEOUT), Reads::default(), None);
    for n in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let up = roster.up(service);
        if up.is_empty() {
            // No replica is up that could be late.
            last = None;
            tokio::select! {
                () = roster.some_up(service) => continue,
                () = stop.cancelled() => break,
            }
        }
        let since = *last.get_or_insert_with(Instant::now);
        let (name, place) = &up[n % up.len()];
        let answer = tokio::select! {
            answer = ask(&http, service, place, n) => answer,
            // It was taken away during the request.
            () = roster.left(name, place.turn) => continue,
        };
        match answer {
            Ok(versions) => {
                reads.good += 1;
                reads.longest_gap = reads.longest_gap.max(since.elapsed());
                last = Some(Instant::now());
                reads.compare(service, versions);
            }
            // A program that is just being taken away may also fail like this.
            Err(_) if roster.place(name).turn != place.turn => continue,
            Err(fault) => reads.faults.push(format!("{name}: {fault}")),
        }
        tokio::time::sleep(PACE).await;
    }
    reads
}

impl Reads {
    /// Notes versions of stores, each of which was read after the earlier ones.
    fn compare(&mut self, service: Service, versions: Vec<(String, u64)>) {
        for (id, version) in versions {
            let newest = self.newest.entry(id).or_default();
            if version < *newest {
                self.faults.push(format!("{service:?} went back from {newest} to {version}"));
            }
            *newest = version.max(*newest);
        }
    }
}

/// Reads once. Returns the versions of the stores in the answer.
async fn ask(
    http: &Client,
    service: Service,
    place: &Place,
    n: usize,
) -> Result<Vec<(String, u64)>, String> {
    let url = match service {
        Service::Review => {
            let id = encode_token(&store_id(n as u64 % 10));
            format!("{}/stores/{id}/reviews?limit=1", place.url)
        }
        _ => format!("{}/stores?limit=100", place.url),
    };
    let answer = http.get(url).send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    // That a store is unknown or deleted is an answer, too.
    if service == Service::Review && matches!(status, 404 | 410) {
        return Ok(Vec::new());
    }
    let body: Value = answer.json().await.map_err(|error| format!("{status}: {error:?}"))?;
    if status != 200 {
        return Err(format!("{status}: {body}"));
    }
    let stores = match service {
        Service::Review => vec![body["store"].clone()],
        _ => body["items"].as_array().cloned().unwrap_or_default(),
    };
    let version = |store: &Value| Some((store["id"].as_str()?.into(), store["version"].as_u64()?));
    stores.iter().map(|store| version(store).ok_or_else(|| format!("no store: {store}"))).collect()
}
