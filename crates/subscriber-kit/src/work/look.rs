//! Asking how keys stand in the work queue, which only its worker reads.

use std::time::Instant;

use nudge_protocol::{
    EntityId, Timestamp, Version,
    admin::{KeyLane, KeyState, KeyWork},
};
use nudge_runtime::clock;
use tokio::sync::oneshot;

use crate::work::{
    queue::WorkQueue,
    run::{Lane, Standing},
};

/// Most questions that wait for the worker. Each costs it as many lookups as there are IDs.
pub(crate) const MAX_LOOKS_WAITING: usize = 4;

/// How the queue stands with a key; `None` if it has nothing to do for it.
pub(crate) type Stands = Option<(KeyState, KeyWork)>;

/// A question about some keys. Keys that have not reached the queue yet are not known to it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) ids: Vec<EntityId>,
    /// Takes an answer for each ID, in order.
    pub(crate) answer: oneshot::Sender<Vec<Stands>>,
}

impl Look {
    /// Answers it from the queue.
    pub(crate) fn answer<T>(self, queue: &WorkQueue<T>, now: Instant) {
        let wall = clock::now();
        let stands = |id| queue.standing(id).map(|standing| told(standing, now, wall));
        // An error means that nobody waits for the answer any more.
        let _ = self.answer.send(self.ids.iter().map(stands).collect());
    }
}

fn told(standing: Standing, now: Instant, wall: Timestamp) -> (KeyState, KeyWork) {
    let Standing { processing, heard, lane, floor, due, attempts, error } = standing;
    let state = match processing {
        true => KeyState::Processing,
        false if attempts > 0 || error.is_some() => KeyState::Retrying,
        false => KeyState::Waiting,
    };
    let at = |due: Instant| {
        let wait = due.saturating_duration_since(now).as_micros() as i64;
        Timestamp::from_unix_micros(wall.unix_micros().saturating_add(wait))
    };
    let work = KeyWork {
        since: heard.since,
        notifications: heard.notifications,
        sequence: (heard.sequence > 0).then_some(heard.sequence),
        lane: Some(match lane {
            Lane::Fresh => KeyLane::Fresh,
            Lane::Backlog => KeyLane::Backlog,
        }),
        floor: (floor > Version::NONE).then_some(floor),
        not_before: due.map(at),
        attempts,
        error: error.map(|error| error.to_string()),
    };
    (state, work)
}
