//! A stream of random edits of stores, from a seed, for as long as a trial runs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_protocol::{WriteToken, subject::encode_token, write_token::WRITE_TOKEN_HEADER};
use nudge_testbed::edits::{Edit, store_id};
use parking_lot::Mutex;
use reqwest::{Client, Method};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{WRITE_TIMEOUT, client, roster::Roster};
use crate::{Random, Service};

/// Number of stores that are edited: so many that another change does not soon hide a lost one.
const STORES: u64 = 150;
/// Number of edits in progress at a time.
const LANES: u64 = 2;
/// Pause after each edit, to leave time for the subscribers.
const PACE: Duration = Duration::from_millis(15);
/// Pause before an edit is retried.
const AGAIN: Duration = Duration::from_millis(20);
/// Number of attempts before an edit is given up.
const MAX_TRIES: u32 = 200;

/// The results of the edits.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Number of successful edits.
    pub edits: u64,
    /// The highest version in an answer for each store, which the owner must not forget.
    pub newest: BTreeMap<String, u64>,
    /// Number of edits that each program has answered.
    pub by: BTreeMap<&'static str, u64>,
    /// Unexpected answers.
    pub surprises: Vec<String>,
}

#[derive(Clone)]
struct Desk {
    roster: Roster,
    http: Client,
    written: Arc<Mutex<Written>>,
    /// Number of attempts so far: replicas take them in turn.
    turn: Arc<AtomicUsize>,
}

/// See the module documentation. Stopped when dropped.
pub struct Writer {
    desk: Desk,
    lanes: JoinSet<()>,
    stop: CancellationToken,
}

impl Writer {
    /// Starts to write to those replicas of store-info that are up, in turn.
    pub fn start(roster: &Roster, seed: u64) -> Self {
        let (written, turn) = (Arc::default(), Arc::default());
        let desk = Desk { roster: roster.clone(), http: client(WRITE_TIMEOUT), written, turn };
        let stop = CancellationToken::new();
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (desk, stop, random) = (desk.clone(), stop.clone(), Random::stream(seed, lane));
            lanes.spawn(async move { desk.write(random, stop).await });
        }
        Self { desk, lanes, stop }
    }

    /// The results so far.
    pub fn written(&self) -> Written {
        self.desk.written.lock().clone()
    }

    /// Waits for this many more successful edits.
    pub async fn more(&self, count: u64) {
        let target = self.written().edits + count;
        crate::eventually("edits go through", || async {
            (self.written().edits >= target).then_some(())
        })
        .await;
    }

    /// Gives every store a new version, beside the stream of edits.
    pub async fn write_all(&self) {
        self.write_again((0..STORES).map(|n| store_id(n).to_string())).await;
    }

    /// Gives these stores a new version.
    pub async fn write_again(&self, ids: impl IntoIterator<Item = String>) {
        // The same name would change nothing.
        let edits = self.written().edits;
        for id in ids {
            let body = Some(json!({"name": format!("새 {edits}호점"), "region": "마포구"}));
            let id = crate::id(&id);
            self.desk.carry_out(Edit { id, method: Method::PUT, body }).await;
        }
    }

    /// Finishes the edits in progress, and stops.
    pub async fn finish(mut self) -> Written {
        self.stop.cancel();
        while let Some(lane) = self.lanes.join_next().await {
            lane.expect("no panic");
        }
        self.written()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Desk {
    async fn write(&self, mut random: Random, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let id = store_id(random.below(STORES));
            self.carry_out(Edit::by_chance(&mut random, id)).await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Retries until there is an answer. An attempt without an answer may have been carried out all the same; only the
    /// owner knows.
    async fn carry_out(&self, edit: Edit) {
        for _ in 0..MAX_TRIES {
            let up = self.roster.up(Service::StoreInfo);
            if up.is_empty() {
                self.roster.some_up(Service::StoreInfo).await;
                continue;
            }
            let (name, place) = &up[self.turn.fetch_add(1, Relaxed) % up.len()];
            let asked = tokio::select! {
                asked = self.ask(&edit, &place.url) => asked,
                // Do not wait for a frozen program.
                () = self.roster.left(name, place.turn) => continue,
            };
            match asked {
                Some((200..300, Some(token))) => return self.note(name, token),
                // There is nothing to change or delete.
                Some((404 | 410, _)) if edit.method != Method::PUT => return,
                None | Some((500.., _)) => {}
                Some((status, _)) => return self.surprise(format!("{} {status}", edit.method)),
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.surprise(format!("{} {}: given up", edit.method, edit.id));
    }

    async fn ask(&self, edit: &Edit, url: &str) -> Option<(u16, Option<WriteToken>)> {
        let path = format!("{url}/stores/{}", encode_token(&edit.id));
        let mut request = self.http.request(edit.method.clone(), path);
        if let Some(body) = &edit.body {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        let token = answer.headers().get(WRITE_TOKEN_HEADER);
        let token = token.and_then(|token| token.to_str().ok()?.parse().ok());
        Some((answer.status().as_u16(), token))
    }

    fn note(&self, name: &'static str, token: WriteToken) {
        let mut written = self.written.lock();
        written.edits += 1;
        *written.by.entry(name).or_default() += 1;
        let newest = written.newest.entry(token.id.to_string()).or_default();
        *newest = token.version.get().max(*newest);
    }

    fn surprise(&self, what: String) {
        self.written.lock().surprises.push(what);
    }
}
