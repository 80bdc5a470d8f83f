//! The stream of edits of a trial.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{PAUSE, WATCHED};
use crate::{Owner, Random, eventually};

/// Number of things that are edited over and over, so that changes of the same thing overlap.
const OFTEN: u64 = 20;
/// Number of things most of which are edited only once, so that a later change does not hide a lost one.
const SELDOM: u64 = 1_000;

/// The edits so far.
#[derive(Debug, Default)]
pub(super) struct Edits {
    done: AtomicUsize,
    /// The set of things to edit.
    set: AtomicUsize,
    /// The set that the newest edit belongs to.
    at: AtomicUsize,
    /// The error of the last failed edit.
    failure: Mutex<Option<String>>,
}

impl Edits {
    /// Number of edits made.
    pub(super) fn done(&self) -> usize {
        self.done.load(SeqCst)
    }

    /// The error of the last failed edit.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Waits for the current edit to end and continues with other things. Returns the prefix of their IDs.
    pub(super) async fn move_on(&self) -> String {
        let next = self.set.fetch_add(1, SeqCst) + 1;
        eventually("other things are edited", || async {
            (self.at.load(SeqCst) >= next).then_some(())
        })
        .await;
        prefix(next)
    }
}

fn prefix(set: usize) -> String {
    match set {
        0 => "thing-".to_owned(),
        _ => format!("later-{set}-"),
    }
}

/// Edits things until it is told to stop. A failed edit is repeated.
pub(super) async fn write(owner: Arc<Owner>, edits: Arc<Edits>, stop: CancellationToken) {
    let (mut random, mut set, mut there) = (Random::new(7), 0, Vec::new());
    for n in 0_usize.. {
        if stop.is_cancelled() {
            return;
        }
        let now = edits.set.load(SeqCst);
        if now != set {
            (set, there) = (now, Vec::new());
        }
        edits.at.store(set, SeqCst);
        let delete = n % 6 == 5 && !there.is_empty();
        let id = match delete {
            true => there.swap_remove(random.index(there.len())),
            false => any(set, &mut random),
        };
        while let Err(error) = edit(&owner, &id, n, delete).await {
            *edits.failure.lock() = Some(error.to_string());
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(PAUSE * 10).await;
        }
        // The reader looks at that one.
        if !delete && id != WATCHED && !there.contains(&id) {
            there.push(id);
        }
        edits.done.fetch_add(1, SeqCst);
        tokio::time::sleep(PAUSE).await;
    }
}

fn any(set: usize, random: &mut Random) -> String {
    let n = match random.below(2) {
        0 => random.below(OFTEN),
        _ => OFTEN + random.below(SELDOM),
    };
    format!("{}{n}", prefix(set))
}

async fn edit(owner: &Owner, id: &str, n: usize, delete: bool) -> Result<(), sqlx::Error> {
    match delete {
        true => owner.try_delete(id).await.map(drop),
        false => owner.try_put_all(&[(id, json!(n))]).await.map(drop),
    }
}
