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

/// Things that are edited again and again, so that changes of one thing meet.
const OFTEN: u64 = 20;
/// Things of which most are edited once, so that a change that is lost is not made good by a later one.
const SELDOM: u64 = 1_000;

/// What was edited so far, and what is.
#[derive(Debug, Default)]
pub(super) struct Edits {
    done: AtomicUsize,
    /// The set of things that is to be edited.
    set: AtomicUsize,
    /// The set that the newest edit belongs to.
    at: AtomicUsize,
    /// What the last edit that failed failed with.
    failure: Mutex<Option<String>>,
}

impl Edits {
    /// How many were made.
    pub(super) fn done(&self) -> usize {
        self.done.load(SeqCst)
    }

    /// What the last edit that failed failed with.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Goes on with other things, once the last edit of those so far has ended. Returns what the ids of
    /// the others begin with.
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

/// Edits things until it is told to stop. An edit that fails is made again.
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
