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
//! batch fail go last. Each of these has batches of its own, each of one lane, so that what is fresh waits for nothing
//! else, and nothing else counts as fresh at the owner.

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
struct Source {
    lane: Lane,
    /// Whether these are keys that failed.
    apart: bool,
}

impl Source {
    /// In the order in which they are served. Keys that failed are fresh only if something new is known of them.
    const ALL: [Self; 4] = [
        Self { lane: Lane::Fresh, apart: false },
        Self { lane: Lane::Backlog, apart: false },
        Self { lane: Lane::Fresh, apart: true },
        Self { lane: Lane::Backlog, apart: true },
    ];

    const fn index(self) -> usize {
        self.lane as usize + Lane::ALL.len() * self.apart as usize
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
    /// The keys that may run now, by [`Source`].
    due: [VecDeque<Place>; Source::ALL.len()],
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
            due: Default::default(),
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
        let set_apart = work.attempts > 0 && !entry.apart;
        entry.apart |= set_apart;
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
                self.place(&id, at_distance, now);
            }
            (true, Some(_)) => {}
            // It may run already, and may only have to change places.
            (true, None) if raised || set_apart => {
                self.place(&id, now, now);
            }
            (true, None) => {}
            // It was idle, or waiting for the minimum distance between runs.
            (false, _) => {
                self.place(&id, at_distance, now);
            }
        }
        was_dirty
    }

    /// All that waits has waited for so long that none of it is fresh any more. What arrives for a key from now on makes it
    /// fresh again.
    pub(crate) fn is_backlog_by_now(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.lane = Lane::Backlog);
        for apart in [false, true] {
            let [fresh, backlog] =
                [Lane::Fresh, Lane::Backlog].map(|lane| Source { lane, apart }.index());
            let fresh = std::mem::take(&mut self.due[fresh]);
            self.due[backlog].extend(fresh);
        }
    }

    /// Starts up to `max` runs that are due, all of one lane, which `may` run.
    pub(crate) fn take(
        &mut self,
        max: usize,
        may: impl Fn(Lane) -> bool,
        now: Instant,
    ) -> Vec<Run<T>> {
        self.tick(now);
        // What has waited for long goes first.
        let [_, others @ ..] = Source::ALL;
        let aged = others.into_iter().rev().filter(|source| self.is_aged(*source, now));
        for source in aged.chain(Source::ALL).collect::<Vec<_>>() {
            if !may(source.lane) {
                continue;
            }
            let mut runs = Vec::new();
            while runs.len() < max {
                let Some(place) = self.due[source.index()].pop_front() else { break };
                runs.extend(self.begin(place, source, now));
            }
            if !runs.is_empty() {
                return runs;
            }
        }
        Vec::new()
    }

    fn is_aged(&self, source: Source, now: Instant) -> bool {
        let waited = |place: &Place| now >= place.since + self.limits.max_wait;
        self.due[source.index()].front().is_some_and(waited)
    }

    /// Begins the run of a place, if the place is still valid.
    fn begin(&mut self, place: Place, source: Source, now: Instant) -> Option<Run<T>> {
        let entry = self.entries.get_mut(&place.id)?;
        if entry.ticket != place.ticket {
            return None;
        }
        debug_assert!(entry.dirty && entry.running.is_none(), "a run of {} begins twice", place.id);
        debug_assert!(entry.lane == source.lane && entry.apart == source.apart, "{}", place.id);
        entry.dirty = false;
        entry.processing_since = entry.dirty_since.take();
        entry.started = Some(now);
        self.dirty -= 1;
        self.processing += 1;
        let floor = std::mem::replace(&mut entry.floor, Version::NONE);
        entry.running = Some((entry.heard, floor));
        Some(Run {
            id: place.id,
            lane: source.lane,
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
        if stays {
            self.place(id, rested, now);
        } else {
            self.entries.remove(id);
        }
    }

    /// Ends a run that must be repeated after a wait. It keeps its acknowledgements.
    pub(crate) fn again(&mut self, run: Run<T>, cause: Cause, after: Duration, now: Instant) {
        let (id, unsure) = (run.id.clone(), run.unsure && cause.owes_second_look());
        let Some((entry, rested, arrived_meanwhile)) = self.resume(Run { unsure, ..run }, now)
        else {
            return;
        };
        entry.yields = cause.yields();
        entry.apart |= cause.spoils();
        if cause == Cause::Unknown {
            entry.unknown_since.get_or_insert(now);
        }
        let first_failure = cause.counts() && entry.attempts == 0;
        entry.attempts = entry.attempts.saturating_add(u32::from(cause.counts()));
        let due = match arrived_meanwhile.is_some() && entry.yields {
            true => rested,
            false => (now + after).max(rested),
        };
        // Its change is no less fresh because the owner was busy.
        if cause != Cause::OwnerFailed {
            entry.lane = arrived_meanwhile.unwrap_or(Lane::Backlog);
        }
        self.retrying += usize::from(first_failure);
        self.place(&id, due, now);
    }

    /// Gives back runs that have not taken place. Their keys are next, in the same order.
    pub(crate) fn put_back(&mut self, runs: Vec<Run<T>>, now: Instant) {
        for run in runs.into_iter().rev() {
            let id = run.id.clone();
            if self.resume(run, now).is_none() {
                continue;
            }
            if let Some(source) = self.place(&id, now, now) {
                self.due[source.index()].rotate_right(1);
            }
        }
    }

    /// Marks a run as over and its key as dirty: what the run was for is still to be done, and is as fresh. Returns its key's
    /// entry, when the key may run next, and the lane of what arrived meanwhile, if anything did.
    fn resume(
        &mut self,
        run: Run<T>,
        now: Instant,
    ) -> Option<(&mut Entry<T>, Instant, Option<Lane>)> {
        self.dirty += usize::from(!self.entries.get(&run.id)?.dirty);
        let (entry, rested) = self.end(&run.id, now)?;
        let arrived_meanwhile = entry.dirty.then_some(entry.lane);
        entry.dirty = true;
        entry.dirty_since = entry.processing_since.or(entry.dirty_since);
        entry.heard = arrived_meanwhile.map_or(run.heard, |_| run.heard.and(entry.heard));
        entry.lane = arrived_meanwhile.map_or(run.lane, |lane| lane.min(run.lane));
        entry.tokens.splice(0..0, run.tokens);
        entry.floor = entry.floor.max(run.floor);
        entry.unsure |= run.unsure;
        entry.error = run.error;
        Some((entry, rested, arrived_meanwhile))
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

    /// Puts a key where it may be taken from, which is returned, or into the timers while it is not due.
    fn place(&mut self, id: &EntityId, due: Instant, now: Instant) -> Option<Source> {
        let entry = self.entries.get_mut(id)?;
        if let Some(old) = entry.due.take() {
            self.timers.remove(&(old, id.clone()));
        }
        self.next_ticket += 1;
        entry.ticket = self.next_ticket;
        if due > now {
            entry.due = Some(due);
            self.timers.insert((due, id.clone()));
            return None;
        }
        let source = Source { lane: entry.lane, apart: entry.apart };
        let place = Place { id: id.clone(), ticket: entry.ticket, since: now };
        self.due[source.index()].push_back(place);
        Some(source)
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
