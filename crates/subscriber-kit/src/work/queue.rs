//! Which keys to work on, and when. Pure logic: no I/O, and `now` is passed in.
//!
//! Four rules:
//! 1. Each key is in at most one run at a time.
//! 2. Work that arrives during a run marks the key *dirty*. However many notifications arrive, exactly one more run
//!    follows, which starts after the last of them.
//! 3. A run carries the acknowledgements that arrived before it started. Those that arrive during it belong to the next
//!    run, because this run's callback may have been answered before them.
//! 4. The first run of a key starts at once; further runs keep a minimum distance. New work on a key that is in backoff
//!    does not shorten the backoff.
//!
//! Fresh notifications go before backlog until backlog has waited for [`Limits::max_wait`]. Keys that may make their
//! batch fail go last. Each of these has batches of its own, so that what is fresh waits for nothing else.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use nudge_protocol::{EntityId, Version};

use crate::work::run::{Cause, Heard, Lane, Limits, Run, Standing, Work};

#[derive(Debug)]
struct Entry<T> {
    tokens: Vec<T>,
    floor: Version,
    unsure: bool,
    dirty: bool,
    /// Since when it has been dirty. What had to run again has been since before that run.
    dirty_since: Option<Instant>,
    /// The same of the work that is being processed.
    processing_since: Option<Instant>,
    lane: Lane,
    started: Option<Instant>,
    attempts: u32,
    unknown_since: Option<Instant>,
    /// When a waiting key is due, while it is in `timers`.
    due: Option<Instant>,
    yields: bool,
    apart: bool,
    /// What the next run is for, if it is dirty.
    heard: Heard,
    /// What the run in progress is for, and its floor; `None` while it is in no run.
    running: Option<(Heard, Version)>,
    /// Why the last run did not succeed.
    error: Option<Arc<str>>,
    /// Identifies the only valid one of the key's places in the lanes.
    ticket: u64,
}

/// From where a batch is taken.
#[derive(Clone, Copy, Debug)]
enum Source {
    Fresh,
    Backlog,
    /// Keys that failed.
    Apart,
}

impl Source {
    const fn lane(self) -> Lane {
        match self {
            Self::Fresh => Lane::Fresh,
            Self::Backlog | Self::Apart => Lane::Backlog,
        }
    }
}

#[derive(Debug)]
struct Place {
    id: EntityId,
    ticket: u64,
    since: Instant,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct WorkQueue<T> {
    limits: Limits,
    entries: HashMap<EntityId, Entry<T>>,
    fresh: VecDeque<Place>,
    backlog: VecDeque<Place>,
    apart: VecDeque<Place>,
    timers: BTreeSet<(Instant, EntityId)>,
    next_ticket: u64,
    processing: usize,
    dirty: usize,
    retrying: usize,
}

impl<T> WorkQueue<T> {
    /// An empty queue.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
            apart: VecDeque::new(),
            timers: BTreeSet::new(),
            next_ticket: 0,
            processing: 0,
            dirty: 0,
            retrying: 0,
        }
    }

    /// Marks a key as needing a run. Returns whether it needed one already.
    pub(crate) fn push(&mut self, id: EntityId, work: Work<T>, now: Instant) -> bool {
        let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry {
            tokens: Vec::new(),
            floor: Version::NONE,
            unsure: false,
            dirty: false,
            dirty_since: None,
            processing_since: None,
            lane: Lane::Backlog,
            started: None,
            attempts: 0,
            unknown_since: None,
            due: None,
            yields: true,
            apart: false,
            heard: work.heard,
            running: None,
            error: None,
            ticket: 0,
        });
        entry.tokens.extend(work.token);
        entry.floor = entry.floor.max(work.floor);
        entry.unsure |= work.unsure;
        self.retrying += usize::from(entry.attempts == 0 && work.attempts > 0);
        entry.attempts = entry.attempts.max(work.attempts);
        entry.apart |= work.attempts > 0;
        let raised = work.lane == Lane::Fresh && entry.lane == Lane::Backlog;
        let was_dirty = std::mem::replace(&mut entry.dirty, true);
        entry.dirty_since.get_or_insert(now);
        entry.heard = if was_dirty { work.heard.and(entry.heard) } else { work.heard };
        if !was_dirty {
            self.dirty += 1;
            entry.lane = work.lane;
        } else if raised {
            entry.lane = Lane::Fresh;
        }
        if entry.running.is_some() {
            return was_dirty;
        }
        let at_distance = entry.started.map_or(now, |s| (s + self.limits.min_distance).max(now));
        match (was_dirty, entry.due) {
            // It is in `timers`: only a wait that yields may become shorter.
            (true, Some(due)) if entry.yields && at_distance < due => {
                self.place(&id, at_distance, now)
            }
            (true, Some(_)) => {}
            // It is in a lane already, and may only have to change lanes.
            (true, None) if raised => self.place(&id, now, now),
            (true, None) => {}
            // It was idle, or waiting for the minimum distance between runs.
            (false, _) => self.place(&id, at_distance, now),
        }
        was_dirty
    }

    /// Starts up to `max` runs that are due, all of one lane, which `may` run.
    pub(crate) fn take(
        &mut self,
        max: usize,
        may: impl Fn(Lane) -> bool,
        now: Instant,
    ) -> Vec<Run<T>> {
        self.tick(now);
        let mut order = [Source::Fresh, Source::Backlog, Source::Apart];
        // What has waited for long goes first.
        if self.is_aged(&self.backlog, now) {
            order.swap(0, 1);
        }
        if self.is_aged(&self.apart, now) {
            order.rotate_right(1);
        }
        for source in order {
            if !may(source.lane()) {
                continue;
            }
            let mut runs = Vec::new();
            while runs.len() < max {
                let Some(place) = self.places(source).pop_front() else { break };
                runs.extend(self.begin(place, now));
            }
            if !runs.is_empty() {
                return runs;
            }
        }
        Vec::new()
    }

    fn places(&mut self, source: Source) -> &mut VecDeque<Place> {
        match source {
            Source::Fresh => &mut self.fresh,
            Source::Backlog => &mut self.backlog,
            Source::Apart => &mut self.apart,
        }
    }

    fn is_aged(&self, lane: &VecDeque<Place>, now: Instant) -> bool {
        let waited = |place: &Place| now >= place.since + self.limits.max_wait;
        lane.front().is_some_and(waited)
    }

    /// Begins the run of a place, if the place is still valid.
    fn begin(&mut self, place: Place, now: Instant) -> Option<Run<T>> {
        let entry = self.entries.get_mut(&place.id)?;
        if entry.ticket != place.ticket {
            return None;
        }
        debug_assert!(entry.dirty && entry.running.is_none(), "a run of {} begins twice", place.id);
        entry.dirty = false;
        entry.processing_since = entry.dirty_since.take();
        entry.started = Some(now);
        self.dirty -= 1;
        self.processing += 1;
        let floor = std::mem::replace(&mut entry.floor, Version::NONE);
        entry.running = Some((entry.heard, floor));
        Some(Run {
            id: place.id,
            lane: if entry.apart { Lane::Backlog } else { entry.lane },
            tokens: std::mem::take(&mut entry.tokens),
            floor,
            unsure: std::mem::take(&mut entry.unsure),
            attempts: entry.attempts,
            unknown_since: entry.unknown_since,
            heard: entry.heard,
            error: entry.error.clone(),
        })
    }

    /// Ends a run with nothing left to do.
    pub(crate) fn done(&mut self, id: &EntityId, now: Instant) {
        let Some((entry, rested)) = self.end(id, now) else {
            return;
        };
        let had_failed = std::mem::take(&mut entry.attempts) > 0;
        (entry.apart, entry.unknown_since, entry.error) = (false, None, None);
        // A key that is not dirty stays only to keep the minimum distance; then `tick` removes it.
        let stays = entry.dirty || rested > now;
        self.retrying -= usize::from(had_failed);
        match stays {
            true => self.place(id, rested, now),
            false => drop(self.entries.remove(id)),
        }
    }

    /// Ends a run that must be repeated after a wait. It keeps its acknowledgements.
    pub(crate) fn again(&mut self, run: Run<T>, cause: Cause, after: Duration, now: Instant) {
        let Some((entry, rested)) = self.end(&run.id, now) else {
            return;
        };
        entry.tokens.splice(0..0, run.tokens);
        entry.floor = entry.floor.max(run.floor);
        entry.unsure |= run.unsure && cause.owes_second_look();
        entry.error = run.error;
        entry.yields = cause.yields();
        entry.apart |= cause.spoils();
        if cause == Cause::Unknown {
            entry.unknown_since.get_or_insert(now);
        }
        let first_failure = cause.counts() && entry.attempts == 0;
        entry.attempts = entry.attempts.saturating_add(u32::from(cause.counts()));
        let arrived_meanwhile = std::mem::replace(&mut entry.dirty, true);
        entry.dirty_since = entry.processing_since.or(entry.dirty_since);
        entry.heard = if arrived_meanwhile { run.heard.and(entry.heard) } else { run.heard };
        let due = match arrived_meanwhile && entry.yields {
            true => rested,
            false => (now + after).max(rested),
        };
        // Its change is no less fresh because the owner was busy.
        if !arrived_meanwhile && cause != Cause::OwnerFailed {
            entry.lane = Lane::Backlog;
        }
        self.dirty += usize::from(!arrived_meanwhile);
        self.retrying += usize::from(first_failure);
        self.place(&run.id, due, now);
    }

    /// Marks a run as over. Returns its key's entry, and when the key may run next.
    fn end(&mut self, id: &EntityId, now: Instant) -> Option<(&mut Entry<T>, Instant)> {
        let entry = self.entries.get_mut(id)?;
        debug_assert!(entry.running.is_some(), "a run of {id} ends twice");
        entry.running = None;
        self.processing -= 1;
        let rested = entry.started.map_or(now, |started| started + self.limits.min_distance);
        Some((entry, rested))
    }

    /// When [`take`](Self::take) may next find something that it would not find now.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Number of keys that need a run and are not in one.
    pub(crate) fn queued(&self) -> usize {
        self.dirty
    }

    /// Since when the key that has waited longest has waited for the end of its work. Reads every key.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.dirty_since).min()
    }

    /// Number of keys in a run.
    pub(crate) fn processing(&self) -> usize {
        self.processing
    }

    /// Number of keys whose last run failed.
    pub(crate) fn retrying(&self) -> usize {
        self.retrying
    }

    /// How a key stands; `None` if there is nothing to do for it.
    pub(crate) fn standing(&self, id: &EntityId) -> Option<Standing> {
        let entry = self.entries.get(id)?;
        let (heard, floor) = match entry.running {
            Some(running) => running,
            None if entry.dirty => (entry.heard, entry.floor),
            None => return None,
        };
        Some(Standing {
            processing: entry.running.is_some(),
            heard,
            lane: entry.lane,
            floor,
            due: entry.due.filter(|_| entry.running.is_none()),
            attempts: entry.attempts,
            error: entry.error.clone(),
        })
    }

    /// Every acknowledgement held by keys that are not in a run.
    pub(crate) fn tokens_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.values_mut().flat_map(|entry| entry.tokens.iter_mut())
    }

    /// Puts a key into its lane, or into the timers while it is not due.
    fn place(&mut self, id: &EntityId, due: Instant, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if let Some(old) = entry.due.take() {
            self.timers.remove(&(old, id.clone()));
        }
        self.next_ticket += 1;
        entry.ticket = self.next_ticket;
        if due > now {
            entry.due = Some(due);
            self.timers.insert((due, id.clone()));
            return;
        }
        let place = Place { id: id.clone(), ticket: entry.ticket, since: now };
        match entry.lane {
            _ if entry.apart => self.apart.push_back(place),
            Lane::Fresh => self.fresh.push_back(place),
            Lane::Backlog => self.backlog.push_back(place),
        }
    }

    /// Moves due keys into their lanes, and removes those that have nothing to do. Afterwards
    /// [`next_due`](Self::next_due) is in the future, so a loop can sleep until then.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some((due, id)) = self.timers.first().cloned() {
            if due > now {
                break;
            }
            self.timers.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.due = None;
            if entry.dirty {
                self.place(&id, now, now);
            } else if entry.running.is_none() {
                self.entries.remove(&id);
            }
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
