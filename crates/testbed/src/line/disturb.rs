//! Disturbs notifications in transit: reorders, duplicates or drops them. Only whole
//! messages are affected, and only notifications.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use nudge_chance::Random;

use super::frames::Frames;

/// Most messages held back at a time.
const MAX_HELD: usize = 64;

/// A disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturb {
    /// Held back, and released in another order.
    Reorder,
    /// About half arrive twice, at once or later.
    Duplicate,
    /// About half do not arrive.
    Drop,
}

/// Counts of disturbed messages.
#[derive(Debug, Default)]
pub struct Counts {
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
    random: Random,
    counts: Arc<Counts>,
}

/// A message that is held back.
#[derive(Debug)]
struct Held {
    message: Vec<u8>,
    /// Its index among those to reorder; `None` if it is a duplicate.
    place: Option<usize>,
}

impl Filter {
    pub(super) fn new(random: Random, counts: Arc<Counts>) -> Self {
        Self { frames: Frames::default(), held: Vec::new(), random, counts }
    }

    /// Whether something is held back.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes arriving messages, and adds to `out` those that pass.
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
            Disturb::Reorder => self.hold(message, Some(self.held.len()), out),
            Disturb::Duplicate => {
                out.extend(&message);
                if chosen {
                    self.counts.duplicated.fetch_add(1, Relaxed);
                    match self.random.below(2) {
                        0 => out.extend(message),
                        _ => self.hold(message, None, out),
                    }
                }
            }
            Disturb::Drop if chosen => {
                self.counts.dropped.fetch_add(1, Relaxed);
            }
            Disturb::Drop => out.extend(message),
        }
    }

    fn hold(&mut self, message: Vec<u8>, place: Option<usize>, out: &mut Vec<u8>) {
        self.held.push(Held { message, place });
        if self.held.len() >= MAX_HELD {
            self.release(out);
        }
    }

    /// Adds to `out` what was held back, in random order.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        self.random.shuffle(&mut self.held);
        let places: Vec<_> = self.held.iter().filter_map(|held| held.place).collect();
        self.counts.reordered.fetch_add(overtakers(&places), Relaxed);
        self.held.drain(..).for_each(|held| out.extend(held.message));
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
