//! A trial: during continuous edits, something fails and is repaired, and everything must converge.
//!
//! ```text
//! start ─► edits ─► the test breaks something ─► more edits ─► the test repairs it ─► end
//!                                                     from here on, other things are edited;
//!                                                     end = more edits, convergence, comparison
//!                                                     of every thing
//! ```
//!
//! A later edit of the same thing cannot hide what was lost in the fault, since nobody edits it after the repair.
//!
//! All the time, a reader reads from the read model. The results are printed as one line that begins with `figure`; no
//! cost is ever asserted.

mod edits;
mod reads;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nudge_runtime::Database;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Copy, Line, Nats, Owner, PATIENCE, ReadModel, TestDatabase, broker_by,
    copy::{copies, quick},
    eventually,
    figure::{Asked, Figure},
    line_to,
};
use edits::Edits;
pub use reads::Reads;

/// Pause between two edits, and between two reads.
const PAUSE: Duration = Duration::from_millis(2);
/// Edits between two steps of a trial.
const SOME_EDITS: usize = 100;
/// The thing that the reader looks at. It is never deleted.
const WATCHED: &str = "thing-0";
/// Longest time without a good answer of a read model that should answer throughout: far more than a busy machine
/// needs, and shorter than all timeouts.
const LONGEST_GAP: Duration = Duration::from_secs(6);

/// See the module documentation.
pub struct Trial {
    /// The broker.
    pub nats: Nats,
    /// The subscriber's connection to it.
    pub line: Line,
    /// The owner, whose relay runs.
    pub owner: Arc<Owner>,
    /// The subscriber.
    pub copy: Copy,
    name: String,
    edits: Arc<Edits>,
    writer: JoinHandle<()>,
    reader: JoinHandle<Reads>,
    stop: CancellationToken,
    _relay: DropGuard,
    asked_before: Asked,
    /// Ends when everything that was changed before the repair is applied, and returns how long that took.
    in_step: Option<JoinHandle<Duration>>,
}

impl Trial {
    /// Starts everything on databases of the kind under test.
    pub async fn start(name: &str) -> Self {
        Self::start_on(name, TestDatabase::new().await, TestDatabase::new().await).await
    }

    /// Starts everything on these databases of the owner and the read model.
    pub async fn start_on(name: &str, owners: TestDatabase, copys: TestDatabase) -> Self {
        let nats = Nats::start().await;
        let owner = Owner::start_silent_on(Arc::new(owners), crate::owner::ENTITY).await;
        // Separate, so that it continues when the owner's API goes away.
        let relay = CancellationToken::new();
        owner.publisher.spawn_relay(&nats.broker("things").await, relay.clone());
        let line = line_to(nats.port()).await;
        let mut model = ReadModel::on(Arc::new(copys));
        model.settings = quick();
        model.settings.ack_wait = Duration::from_secs(1);
        model.settings.fetch_timeout = Duration::from_millis(500);
        let copy = model.start(&broker_by(&line, "copies").await, &owner).await;
        copy.wait(&owner.put(WATCHED, json!("first")).await).await;
        let (owner, edits, stop) = (Arc::new(owner), Arc::default(), CancellationToken::new());
        let writer = tokio::spawn(edits::write(owner.clone(), Arc::clone(&edits), stop.clone()));
        let reader = reads::read(copy.admin(&format!("applied/thing/{WATCHED}")), stop.clone());
        let trial = Self {
            asked_before: asked(&copy).await,
            nats,
            line,
            owner,
            copy,
            name: name.to_owned(),
            edits,
            writer,
            reader: tokio::spawn(reader),
            stop,
            _relay: relay.drop_guard(),
            in_step: None,
        };
        trial.some_edits().await;
        trial
    }

    /// Waits for some more edits.
    pub async fn some_edits(&self) {
        let before = self.edits.done();
        eventually("some more edits", || async {
            (self.edits.done() >= before + SOME_EDITS).then_some(())
        })
        .await;
    }

    /// Waits until an edit has failed with an error that contains this word.
    pub async fn an_edit_fails(&self, word: &str) {
        eventually(&format!("an edit fails: {word}"), || async {
            self.edits.failure()?.contains(word).then_some(())
        })
        .await;
    }

    /// To be called when everything works again, after each fault. From here on, other things are edited, and the time
    /// is measured until all earlier changes are in the read model.
    pub async fn mended(&mut self) {
        let mended = Instant::now();
        let later = self.edits.move_on().await;
        let before = eventually("the owner's things are read", || async {
            let mut things = self.owner.try_all().await.ok()?;
            things.retain(|(id, _)| !id.starts_with(&later));
            Some(things)
        })
        .await;
        let waiting = in_step(self.copy.db.clone(), before, later, mended);
        if let Some(last) = self.in_step.replace(tokio::spawn(waiting)) {
            last.abort();
        }
    }

    /// Makes the last edits, waits for convergence, and compares everything.
    pub async fn end(mut self) -> Reads {
        self.some_edits().await;
        self.stop.cancel();
        self.writer.await.expect("the writer does not fail");
        let in_step = self.in_step.take().expect("what was broken is repaired");
        self.copy.converged(&self.owner).await;
        let in_step = tokio::time::timeout(PATIENCE, in_step).await;
        let in_step = in_step.expect("everything that was changed before the repair is applied");
        self.copy.quiet().await;
        self.copy.dead_letters(0).await;
        let dead = self.copy.metric("nudge_dead_lettered_total").await;
        assert_eq!(dead, 0, "dead letters were made, if only for a while");
        assert_eq!(self.copy.all().await, self.owner.all().await);
        let reads = self.reader.await.expect("the reader does not fail");
        assert_eq!(reads.wrong, [""; 0], "what is never deleted was never shown as deleted");
        Figure {
            kind: self.copy.db.kind(),
            name: &self.name,
            changes: self.edits.done() as u64,
            asked: asked(&self.copy).await - self.asked_before,
            subscribers: 1,
            in_step: in_step.expect("the comparison does not fail"),
            longest_gap: reads.longest_gap,
            failed_reads: reads.failed,
        }
        .print();
        reads
    }

    /// Like [`end`](Self::end), for faults outside of the read model, which must have answered throughout.
    pub async fn end_with_every_read_answered(self) {
        let reads = self.end().await;
        assert_eq!(reads.failed, 0, "{reads:?}");
        assert!(reads.longest_gap < LONGEST_GAP, "{reads:?}");
    }
}

async fn asked(copy: &Copy) -> Asked {
    let calls = copy.metric("nudge_callbacks_total").await;
    Asked { calls, keys: copy.metric("nudge_asked_total").await }
}

/// Waits until the copies, except those whose IDs begin with `later`, are equal to `before`. Returns how long that
/// took.
async fn in_step(
    db: Database,
    before: Vec<(String, String)>,
    later: String,
    mended: Instant,
) -> Duration {
    loop {
        if let Ok(mut copies) = copies(&db).await {
            copies.retain(|(id, _)| !id.starts_with(&later));
            if copies == before {
                return mended.elapsed();
            }
        }
        tokio::time::sleep(PAUSE * 5).await;
    }
}
