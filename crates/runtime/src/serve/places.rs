//! How many connections a listener has, and which of them makes room for a new one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Least time between two log lines that the listener is full.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// The slots for a listener's connections.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    by: HashMap<u64, Held>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    /// Since when it has been idle; `None` while it answers a request.
    idle: Option<Instant>,
    give_way: CancellationToken,
}

/// A connection's slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// Cancelled when the connection must make room for another.
    pub(super) give_way: CancellationToken,
}

/// The connection of a [`Place`] is busy until this is dropped.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Place>);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// A slot, if necessary that of the connection that has been idle longest. `None` if all are
    /// busy.
    pub(super) fn take(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut taken = self.taken.lock();
        if taken.by.len() >= self.most {
            taken.tell(self.most);
            if !taken.make_room() {
                return None;
            }
        }
        let number = taken.next;
        taken.next += 1;
        let give_way = CancellationToken::new();
        let held = Held { idle: Some(Instant::now()), give_way: give_way.clone() };
        taken.by.insert(number, held);
        Some(Arc::new(Place { places: self.clone(), number, give_way }))
    }

    /// Ends the connection that has been idle longest, if there is one.
    pub(super) fn make_room(&self) {
        self.taken.lock().make_room();
    }

    fn set_idle(&self, number: u64, idle: Option<Instant>) {
        if let Some(held) = self.taken.lock().by.get_mut(&number) {
            held.idle = idle;
        }
    }
}

impl Taken {
    fn make_room(&mut self) -> bool {
        let idle = self.by.iter().filter_map(|(number, held)| Some((held.idle?, *number)));
        let longest = idle.min().and_then(|(_, number)| self.by.remove(&number));
        longest.is_some_and(|held| {
            held.give_way.cancel();
            true
        })
    }

    fn tell(&mut self, most: usize) {
        if self.told.is_none_or(|told| told.elapsed() > TELL_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(most, "the limit of open connections is reached");
        }
    }
}

impl Place {
    /// A request has arrived.
    pub(super) fn at_work(self: &Arc<Self>) -> AtWork {
        self.places.set_idle(self.number, None);
        AtWork(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().by.remove(&self.number);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.places.set_idle(self.0.number, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_idle_for_longest_gives_way() {
        let places = Arc::new(Places::new(3));
        let [first, second, third] = [(); 3].map(|()| places.take().unwrap());
        let given_way = || [&first, &second, &third].map(|place| place.give_way.is_cancelled());
        // It has had its answer just now, so the second has waited for longer.
        drop(first.at_work());
        let fourth = places.take().unwrap();
        assert_eq!(given_way(), [false, true, false]);
        let at_work = [first.at_work(), third.at_work(), fourth.at_work()];
        assert!(places.take().is_none(), "all are at work");
        assert_eq!(given_way(), [false, true, false]);
        drop(at_work);
        assert!(places.take().is_some());
        assert_eq!(given_way(), [true, true, false]);
    }

    #[test]
    fn a_place_is_free_once_its_connection_has_ended() {
        let places = Arc::new(Places::new(1));
        let first = places.take().unwrap();
        let at_work = first.at_work();
        assert!(places.take().is_none());
        drop((first, at_work));
        let _second = places.take().unwrap();
        assert_eq!(places.taken.lock().by.len(), 1);
    }
}
