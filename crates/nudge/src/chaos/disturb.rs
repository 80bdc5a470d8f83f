//! What happens to notifications on their way: another order, twice, or not at all. Only whole
//! messages are touched, and nothing but notifications.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{frames::Frames, random::Random};

/// Most messages held back at a time.
const MAX_HELD: usize = 64;

/// A disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disturb {
    /// Held back, and released in another order.
    Reorder,
    /// About half come twice, at once or later.
    Duplicate,
    /// About half do not come.
    Drop,
}

/// What has been done to messages.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) reordered: AtomicU64,
    pub(super) duplicated: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Filter {
    frames: Frames,
    held: Vec<Vec<u8>>,
    random: Random,
    counts: Arc<Counts>,
}

impl Filter {
    pub(super) fn new(random: Random, counts: Arc<Counts>) -> Self {
        Self { frames: Frames::default(), held: Vec::new(), random, counts }
    }

    /// Whether something is held back.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes what has come, and adds to `out` what goes on.
    pub(super) fn pass(&mut self, bytes: &[u8], disturb: Option<Disturb>, out: &mut Vec<u8>) {
        if disturb.is_none() {
            self.release(out);
        }
        for piece in self.frames.push(bytes) {
            match disturb.filter(|_| piece.notification) {
                Some(disturb) => self.disturb(piece.bytes, disturb, out),
                None => out.extend(piece.bytes),
            }
        }
    }

    fn disturb(&mut self, message: Vec<u8>, disturb: Disturb, out: &mut Vec<u8>) {
        let chosen = self.random.below(2) == 0;
        match disturb {
            Disturb::Reorder => {
                self.counts.reordered.fetch_add(1, Relaxed);
                self.hold(message, out);
            }
            Disturb::Duplicate => {
                out.extend(&message);
                if chosen {
                    self.counts.duplicated.fetch_add(1, Relaxed);
                    match self.random.below(2) {
                        0 => out.extend(message),
                        _ => self.hold(message, out),
                    }
                }
            }
            Disturb::Drop if chosen => {
                self.counts.dropped.fetch_add(1, Relaxed);
            }
            Disturb::Drop => out.extend(message),
        }
    }

    fn hold(&mut self, message: Vec<u8>, out: &mut Vec<u8>) {
        self.held.push(message);
        if self.held.len() >= MAX_HELD {
            self.release(out);
        }
    }

    /// Adds to `out` what was held back, in an order of chance.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        self.random.shuffle(&mut self.held);
        self.held.drain(..).for_each(|message| out.extend(message));
    }
}

#[cfg(test)]
mod tests;
