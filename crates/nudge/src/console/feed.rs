//! The frames: numbered, a few of them kept, and sent to every page that looks.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use nudge_runtime::clock;
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::task::AbortOnDropHandle;

use super::board::Board;

/// Frames that are kept for a page that comes back: several seconds of them.
const MAX_KEPT_FRAMES: usize = 128;
/// Frames that a page may be behind; a slower one is sent a snapshot instead.
const MAX_WAITING_FRAMES: usize = 32;

/// A frame, as it is sent.
#[derive(Debug)]
pub(super) struct Numbered {
    /// Names the frame and the run of this program, for `Last-Event-ID`.
    pub(super) id: String,
    /// JSON.
    pub(super) text: String,
}

/// Where frames come from, and who gets them. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    inner: Arc<Mutex<Inner>>,
    frames: broadcast::Sender<Arc<Numbered>>,
}

#[derive(Debug)]
struct Inner {
    board: Board,
    kept: VecDeque<Arc<Numbered>>,
    /// Of this run of the program: a page may have been told of another's frames.
    run: i64,
    number: u64,
    collecting: Weak<AbortOnDropHandle<()>>,
}

impl Feed {
    pub(super) fn new() -> Self {
        let inner = Inner {
            board: Board::default(),
            kept: VecDeque::new(),
            run: clock::now().unix_micros(),
            number: 0,
            collecting: Weak::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            frames: broadcast::Sender::new(MAX_WAITING_FRAMES),
        }
    }

    /// Changes the board.
    pub(super) fn change(&self, change: impl FnOnce(&mut Board)) {
        change(&mut self.inner.lock().board);
    }

    /// Sends what is new, if anything is.
    pub(super) fn send(&self) {
        let mut inner = self.inner.lock();
        let Some(text) = inner.board.frame(clock::now().unix_micros()) else { return };
        inner.number += 1;
        let frame = Arc::new(Numbered { id: inner.id(), text });
        if inner.kept.len() == MAX_KEPT_FRAMES {
            inner.kept.pop_front();
        }
        inner.kept.push_back(frame.clone());
        // Nobody may be listening any more.
        let _ = self.frames.send(frame);
    }

    /// Begins to look: at what follows the frame `last`, if that is still known, else at everything. `collect` is
    /// started if nobody looks yet, and ends when nobody does any more.
    pub(super) fn look(
        &self,
        last: Option<&str>,
        collect: impl FnOnce() -> AbortOnDropHandle<()>,
    ) -> Look {
        let mut inner = self.inner.lock();
        let collecting = inner.collecting.upgrade().unwrap_or_else(|| {
            // What happened while nobody looked is in no frame.
            inner.kept.clear();
            inner.board = Board::default();
            let collecting = Arc::new(collect());
            inner.collecting = Arc::downgrade(&collecting);
            collecting
        });
        let place = inner.kept.iter().position(|frame| Some(frame.id.as_str()) == last);
        let first = match place {
            Some(place) => inner.kept.iter().skip(place + 1).cloned().collect(),
            None => VecDeque::from([inner.snapshot()]),
        };
        Look { feed: self.clone(), first, frames: self.frames.subscribe(), _collecting: collecting }
    }
}

impl Inner {
    fn id(&self) -> String {
        format!("{:x}-{}", self.run, self.number)
    }

    fn snapshot(&self) -> Arc<Numbered> {
        let text = self.board.snapshot(clock::now().unix_micros());
        Arc::new(Numbered { id: self.id(), text })
    }
}

/// One page that looks.
#[derive(Debug)]
pub(super) struct Look {
    feed: Feed,
    first: VecDeque<Arc<Numbered>>,
    frames: broadcast::Receiver<Arc<Numbered>>,
    _collecting: Arc<AbortOnDropHandle<()>>,
}

impl Look {
    /// The next frame.
    pub(super) async fn next(&mut self) -> Option<Arc<Numbered>> {
        if let Some(frame) = self.first.pop_front() {
            return Some(frame);
        }
        match self.frames.recv().await {
            Ok(frame) => Some(frame),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(_)) => {
                let inner = self.feed.inner.lock();
                // Under the lock, so that no frame comes between.
                self.frames = self.frames.resubscribe();
                Some(inner.snapshot())
            }
        }
    }
}

#[cfg(test)]
mod tests;
