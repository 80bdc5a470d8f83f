//! A trial: edits go on all the time, something fails and is mended, and everything must converge.
//!
//! ```text
//! start ─► edits ─► the test breaks something ─► more edits ─► the test mends it ─► end
//!                                                                    end = more edits, convergence,
//!                                                                    comparison of every thing
//! ```
//!
//! Meanwhile a reader asks the read model again and again. What was seen is printed as one line that
//! begins with `figure`; no figure is ever asserted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Copy, Link, Nats, Owner, Random, ReadModel, TestDatabase, copy::quick, eventually};

/// Things that are edited.
const THINGS: usize = 60;
/// Pause between two edits, and between two reads.
const PAUSE: Duration = Duration::from_millis(2);
/// Edits between two steps of a trial.
const SOME_EDITS: usize = 100;

/// See the module's description.
pub struct Trial {
    /// The broker.
    pub nats: Nats,
    /// The subscriber's way to it.
    pub link: Link,
    /// The owner, whose relay runs.
    pub owner: Arc<Owner>,
    /// The subscriber.
    pub copy: Copy,
    name: String,
    edits: Arc<AtomicUsize>,
    writer: JoinHandle<()>,
    reader: JoinHandle<Figures>,
    stop: CancellationToken,
    _relay: DropGuard,
    callbacks_before: usize,
    mended: Instant,
}

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Reads of the read model that failed.
    pub failed_reads: usize,
    /// Longest time between two good answers of the read model.
    pub longest_gap: Duration,
}

impl Trial {
    /// Starts everything on databases of the kind that the run is for.
    pub async fn start(name: &str) -> Self {
        Self::start_on(name, TestDatabase::new().await, TestDatabase::new().await).await
    }

    /// Starts everything on these databases of the owner and the read model.
    pub async fn start_on(name: &str, owners: TestDatabase, copys: TestDatabase) -> Self {
        let nats = Nats::start().await;
        let owner = Owner::start_silent_on(Arc::new(owners), crate::owner::ENTITY).await;
        // A program of its own: it goes on when the owner's API goes away.
        let relay = CancellationToken::new();
        owner.publisher.spawn_relay(&nats.broker("things").await, relay.clone());
        let link = Link::to(&nats).await;
        let mut model = ReadModel::on(Arc::new(copys));
        model.settings = quick();
        model.settings.ack_wait = Duration::from_secs(1);
        model.settings.fetch_timeout = Duration::from_millis(500);
        let copy = model.start(&link.broker("copies").await, &owner).await;
        copy.wait(&owner.put("thing-0", json!("first")).await).await;
        let (owner, edits, stop) = (Arc::new(owner), Arc::default(), CancellationToken::new());
        let writer = tokio::spawn(write(owner.clone(), Arc::clone(&edits), stop.clone()));
        let reader = tokio::spawn(read(copy.admin("applied/thing/thing-0"), stop.clone()));
        let callbacks_before = owner.asked().concat().len();
        let (name, mended) = (name.to_owned(), Instant::now());
        let trial = Self {
            nats,
            link,
            owner,
            copy,
            name,
            edits,
            writer,
            reader,
            stop,
            _relay: relay.drop_guard(),
            callbacks_before,
            mended,
        };
        trial.some_edits().await;
        trial
    }

    /// Waits until some more edits are made.
    pub async fn some_edits(&self) {
        let before = self.edits.load(SeqCst);
        eventually("some more edits", || async {
            (self.edits.load(SeqCst) >= before + SOME_EDITS).then_some(())
        })
        .await;
    }

    /// Everything works again: from here on, time to converge counts.
    pub fn mended(&mut self) {
        self.mended = Instant::now();
    }

    /// Some more edits, and no more; then waits for convergence, and compares everything.
    pub async fn end(self) -> Figures {
        self.some_edits().await;
        self.stop.cancel();
        self.writer.await.expect("the writer does not fail");
        self.copy.converged(&self.owner).await;
        let took = self.mended.elapsed();
        self.copy.quiet().await;
        self.copy.dead_letters(0).await;
        assert_eq!(self.copy.all().await, self.owner.all().await);
        let figures = self.reader.await.expect("the reader does not fail");
        let edits = self.edits.load(SeqCst);
        let callbacks = self.owner.asked().concat().len() - self.callbacks_before;
        println!(
            "figure | {:?} | {} | {edits} edits | {:.2} callbacks per change | converged after {:.2} s \
             | longest gap in reads {} ms | {} failed reads",
            self.copy.db.kind(),
            self.name,
            callbacks as f64 / edits as f64,
            took.as_secs_f64(),
            figures.longest_gap.as_millis(),
            figures.failed_reads,
        );
        figures
    }

    /// [`end`](Self::end), when nothing that failed was the read model's own: it must have answered
    /// throughout.
    pub async fn end_with_every_read_answered(self) {
        let figures = self.end().await;
        assert_eq!(figures.failed_reads, 0, "{figures:?}");
    }
}

/// Edits things until it is told to stop. An edit that fails is made again.
async fn write(owner: Arc<Owner>, edits: Arc<AtomicUsize>, stop: CancellationToken) {
    let mut random = Random(7);
    for n in 0_usize.. {
        if stop.is_cancelled() {
            return;
        }
        let id = format!("thing-{}", random.below(THINGS));
        // The reader looks at the first one.
        let delete = n % 6 == 5 && id != "thing-0";
        loop {
            let done = match delete {
                true => owner.try_delete(&id).await.map(drop),
                false => owner.try_put_all(&[(&id, json!(n))]).await.map(drop),
            };
            if done.is_ok() || stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(PAUSE * 10).await;
        }
        edits.fetch_add(1, SeqCst);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks the read model again and again.
async fn read(url: String, stop: CancellationToken) -> Figures {
    let http = reqwest::Client::new();
    let mut seen = Figures { failed_reads: 0, longest_gap: Duration::ZERO };
    let mut last = Instant::now();
    while !stop.is_cancelled() {
        let answer = http.get(&url).send().await;
        seen.longest_gap = seen.longest_gap.max(last.elapsed());
        match answer.is_ok_and(|answer| answer.status() == 200) {
            true => last = Instant::now(),
            false => seen.failed_reads += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    seen
}
