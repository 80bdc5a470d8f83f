//! Disturbs notifications in transit: reorders, duplicates or drops them. Only whole
//! messages are affected, and only notifications.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    choice::{Which, chosen, order},
    frames::Frames,
};

/// A disturbance. Its seed decides what is left to chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturb {
    /// What happens to notifications.
    pub how: How,
    /// Decides which, and in which order.
    pub seed: u64,
}

/// What happens to notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Held back, and released in another order.
    Reorder(Hold),
    /// Some arrive twice, at once or later.
    Duplicate(Which),
    /// Some do not arrive.
    Drop(Which),
}

/// When held-back notifications are released: as soon as one of these is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// This many are held back.
    pub most: usize,
    /// The first of them has been held back this long.
    pub longest: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        Self { most: MAX_HELD, longest: Duration::from_millis(400) }
    }
}

/// Most messages that can be held back at a time.
pub const MAX_HELD: usize = 64;

impl Disturb {
    fn hold(self) -> Hold {
        match self.how {
            How::Reorder(hold) => hold,
            How::Duplicate(_) | How::Drop(_) => Hold::default(),
        }
    }
}

/// Counts of disturbed messages.
#[derive(Debug, Default)]
pub struct Counts {
    /// Those that are held back now, copies included.
    pub held: AtomicU64,
    /// Those that overtook another. Being held back is not enough: one may be released alone.
    pub reordered: AtomicU64,
    /// Those that arrived twice.
    pub duplicated: AtomicU64,
    /// Those that did not arrive.
    pub dropped: AtomicU64,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Filter {
    frames: Frames,
    held: Vec<Held>,
    /// What `held` was held back for.
    disturb: Option<Disturb>,
    /// Notifications that passed since the disturbance began, on all connections of the line.
    passed: Arc<AtomicU64>,
    counts: Arc<Counts>,
}

/// A message that is held back.
#[derive(Debug)]
struct Held {
    message: Vec<u8>,
    number: u64,
    /// Its index among those to reorder; `None` if it is a duplicate.
    place: Option<usize>,
}

impl Filter {
    pub(super) fn new(passed: Arc<AtomicU64>, counts: Arc<Counts>) -> Self {
        Self { frames: Frames::default(), held: Vec::new(), disturb: None, passed, counts }
    }

    /// How long what is held back may be, if something is.
    pub(super) fn longest_hold(&self) -> Option<Duration> {
        let hold = self.disturb.map(Disturb::hold).unwrap_or_default();
        (!self.held.is_empty()).then_some(hold.longest)
    }

    /// Takes arriving messages, and adds to `out` those that pass. Those that were held back for another disturbance
    /// pass first.
    pub(super) fn pass(&mut self, bytes: &[u8], disturb: Option<Disturb>, out: &mut Vec<u8>) {
        if disturb != self.disturb {
            self.release(out);
            self.disturb = disturb;
        }
        for piece in self.frames.push(bytes) {
            match disturb.filter(|_| piece.notification) {
                Some(disturb) => self.disturb(piece.bytes, disturb, out),
                None => out.extend(piece.bytes),
            }
        }
    }

    fn disturb(&mut self, message: Vec<u8>, Disturb { how, seed }: Disturb, out: &mut Vec<u8>) {
        let number = self.passed.fetch_add(1, Relaxed);
        match how {
            How::Reorder(_) => self.hold(message, number, Some(self.held.len()), out),
            How::Duplicate(which) => {
                out.extend(&message);
                if chosen(seed, number, which) {
                    self.counts.duplicated.fetch_add(1, Relaxed);
                    // Every other copy comes later.
                    match chosen(!seed, number, Which::Percent(50)) {
                        true => out.extend(message),
                        false => self.hold(message, number, None, out),
                    }
                }
            }
            How::Drop(which) if chosen(seed, number, which) => {
                self.counts.dropped.fetch_add(1, Relaxed);
            }
            How::Drop(_) => out.extend(message),
        }
    }

    fn hold(&mut self, message: Vec<u8>, number: u64, place: Option<usize>, out: &mut Vec<u8>) {
        self.held.push(Held { message, number, place });
        self.counts.held.fetch_add(1, Relaxed);
        let most = self.disturb.map(Disturb::hold).unwrap_or_default().most;
        if self.held.len() >= most.min(MAX_HELD) {
            self.release(out);
        }
    }

    /// Adds to `out` what was held back, in the order that the seed decides.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        let (Some(disturb), Some(first)) = (self.disturb, self.held.first()) else { return };
        let order = order(disturb.seed, first.number, self.held.len());
        let places: Vec<_> = order.iter().filter_map(|index| self.held[*index].place).collect();
        self.counts.reordered.fetch_add(overtakers(&places), Relaxed);
        order.iter().for_each(|index| out.extend(&self.held[*index].message));
        self.forget();
    }

    fn forget(&mut self) {
        self.counts.held.fetch_sub(self.held.len() as u64, Relaxed);
        self.held.clear();
    }
}

impl Drop for Filter {
    /// Its connection has ended: what was held back is lost.
    fn drop(&mut self) {
        self.forget();
    }
}

/// How many come before one that was originally before them.
fn overtakers(places: &[usize]) -> u64 {
    let after = |at: usize| places[at + 1..].iter();
    let overtook = |at: &usize| after(*at).any(|later| *later < places[*at]);
    (0..places.len()).filter(overtook).count() as u64
}

#[cfg(test)]
mod tests;
