//! Whose turn it is to be answered, and when. Pure: `now` is passed in.
//!
//! Subscribers share the budget by start-time fair queueing. Each has a tag for each lane, counted in entities; the
//! lowest is next. What is answered raises the tag of its lane and, if it was fresh, that of the subscriber's backlog too: so
//! a subscriber's backlog pays for its fresh changes, which never wait for its backlog, and which lane it names changes
//! nothing for the others. A tag that has fallen behind is raised to the current one: who asks for nothing saves nothing up,
//! and what it leaves is everybody else's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use nudge_protocol::sync_api::Lane;

use super::MAX_WAIT;

/// Subscribers that are told apart. All others share one place, named `OTHERS`.
pub const MAX_SUBSCRIBERS: usize = 64;
/// Callbacks that wait for their turn, which are at least as many as all subscribers have in progress for fresh changes. Fewer
/// if their turns take longer than [`MAX_WAIT`].
pub const MAX_WAITING: usize = 256;
/// Subscribers for which there is no place of their own. No subscriber can be called that.
pub(crate) const OTHERS: &str = "(others)";
/// The budget of so much time may be used at once after a pause: four turns. So in no second more is granted than the budget
/// and a fifth, and one turn.
pub(super) const BURST: Duration = Duration::from_millis(200);
/// A turn takes at most the budget of so much time, so that a fresh change is soon next. The subscriber asks again for
/// the rest.
const TURN: Duration = Duration::from_millis(50);
/// What an answer cost beyond its turn keeps others waiting for at most so long. Its subscriber pays all of it.
const MAX_DEBT: Duration = Duration::from_millis(500);
/// A subscriber that has asked for nothing for so long gives up its place when another needs one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Shortest and longest wait that is asked for, in seconds. What waits needs no longer than [`MAX_WAIT`] and [`MAX_DEBT`] to have
/// its turn; only who took far more than its share is asked to wait longer.
pub(super) const RETRY_AFTER_SECONDS: (f64, f64) = (1.0, 10.0);

/// What a subscriber took in one lane, since it has a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Entities asked for and granted.
    pub(crate) entities: u64,
    /// Callbacks that had to wait.
    pub(crate) waited: u64,
    /// Callbacks that were refused.
    pub(crate) refused: u64,
}

#[derive(Clone, Debug)]
struct Line<T> {
    tag: u64,
    waiting: VecDeque<Waiting<T>>,
    taken: Taken,
}

#[derive(Clone, Debug)]
struct Waiting<T> {
    arrival: u64,
    entities: usize,
    who: T,
}

/// One subscriber: a line for each lane.
#[derive(Clone, Debug)]
struct Place<T> {
    lines: [Line<T>; Lane::ALL.len()],
    seen: Instant,
}

impl<T> Place<T> {
    fn new(seen: Instant) -> Self {
        let line = |_| Line { tag: 0, waiting: VecDeque::new(), taken: Taken::default() };
        Self { lines: Lane::ALL.map(line), seen }
    }

    fn waiting(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }
}

/// See the module documentation. `T` is what waits.
#[derive(Clone, Debug)]
pub(super) struct Turns<T> {
    /// `None` is no limit.
    per_second: Option<f64>,
    /// Until when the budget is used up.
    used_until: Instant,
    /// The tag of the last turn.
    tag: u64,
    places: BTreeMap<Arc<str>, Place<T>>,
    /// Whether somebody still waits for the answer.
    is_awaited: fn(&T) -> bool,
    arrivals: u64,
}

impl<T> Turns<T> {
    /// Without a limit, until one is [set](Self::limit).
    pub(super) fn new(is_awaited: fn(&T) -> bool, now: Instant) -> Self {
        let places = BTreeMap::from([(OTHERS.into(), Place::new(now))]);
        Self { per_second: None, used_until: now, tag: 0, places, is_awaited, arrivals: 0 }
    }

    /// Sets how many entities may be asked for each second.
    pub(super) fn limit(&mut self, per_second: Option<f64>) {
        self.per_second = per_second;
    }

    /// The number that may be asked for each second.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.per_second
    }

    /// A callback asks for so many entities: it is granted so many of them at once, or has to [`wait`](Self::wait).
    pub(super) fn ask(
        &mut self,
        name: &str,
        lane: Lane,
        entities: usize,
        now: Instant,
    ) -> Option<usize> {
        let name = self.place(name, now);
        if self.per_second.is_some() && (now < self.used_until || self.waiting() > 0) {
            return None;
        }
        self.catch_up(&name, lane);
        Some(self.grant(&name, lane, entities, now))
    }

    /// Lets a callback wait. If too much does, returns those that must be refused instead: perhaps this one.
    pub(super) fn wait(
        &mut self,
        name: &str,
        lane: Lane,
        entities: usize,
        who: T,
        now: Instant,
    ) -> Vec<T> {
        let name = self.place(name, now);
        let mut refused = Vec::new();
        if self.used_until.saturating_duration_since(now) >= MAX_WAIT {
            // Whoever else is refused makes no room.
            return vec![who];
        }
        if !self.has_room(now) {
            self.forget_who_gave_up();
        }
        while !self.has_room(now) {
            let Some((loser, of)) = self.loser(&name, lane) else {
                refused.push(who);
                return refused;
            };
            refused.extend(self.line(&loser, of).waiting.pop_back().map(|waiting| waiting.who));
        }
        self.catch_up(&name, lane);
        self.arrivals += 1;
        let waiting = Waiting { arrival: self.arrivals, entities, who };
        let line = self.line(&name, lane);
        line.taken.waited += 1;
        line.waiting.push_back(waiting);
        refused
    }

    /// The callback whose turn it is, and how many entities it is granted; `None` until [`due`](Self::due).
    pub(super) fn next(&mut self, now: Instant) -> Option<(T, usize)> {
        while self.per_second.is_none() || self.used_until <= now {
            let (name, lane) = self.lowest()?;
            let Waiting { entities, who, .. } = self.line(&name, lane).waiting.pop_front()?;
            if (self.is_awaited)(&who) {
                return Some((who, self.grant(&name, lane, entities, now)));
            }
        }
        None
    }

    /// When the next turn is, if anybody waits for one.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.waiting() > 0).then_some(self.used_until)
    }

    /// A granted callback cost so many entities more.
    pub(super) fn charge(&mut self, name: &str, lane: Lane, entities: usize, now: Instant) {
        let name = self.place(name, now);
        let most = self.used_until.max(now + MAX_DEBT);
        self.pay(&name, lane, entities, now);
        self.used_until = self.used_until.min(most);
    }

    /// Counts a refusal, and returns the wait to ask for, in whole seconds: until all that waits now has had its turn, and the
    /// others have caught up with what its subscriber took beyond its share.
    pub(super) fn refuse(&mut self, name: &str, lane: Lane, now: Instant) -> u64 {
        let (name, tag) = (self.place(name, now), self.tag);
        let line = self.line(&name, lane);
        line.taken.refused += 1;
        let ahead = line.tag.saturating_sub(tag);
        let waits =
            |(other, place): &(&Arc<str>, &Place<T>)| **other != name && place.waiting() > 0;
        let others = self.places.iter().filter(waits).count() as u64;
        let catching_up = self.per_second.map_or(0.0, |rate| (ahead * others) as f64 / rate);
        let (least, most) = RETRY_AFTER_SECONDS;
        (self.drained_in(now) + catching_up).ceil().clamp(least, most) as u64
    }

    /// The time until all that waits has had its turn, in seconds.
    fn drained_in(&self, now: Instant) -> f64 {
        let Some(rate) = self.per_second else { return 0.0 };
        let waiting = self.places.values().flat_map(|place| &place.lines);
        let waiting = waiting.flat_map(|line| &line.waiting);
        let turns: usize = waiting.map(|waiting| self.at_a_time(waiting.entities)).sum();
        self.used_until.saturating_duration_since(now).as_secs_f64() + turns as f64 / rate
    }

    /// What each subscriber took in each lane.
    pub(super) fn taken(&self) -> impl Iterator<Item = (&str, Lane, Taken)> {
        self.places.iter().flat_map(|(name, place)| {
            Lane::ALL.map(|lane| (&**name, lane, place.lines[lane as usize].taken))
        })
    }

    /// Number of callbacks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.places.values().map(Place::waiting).sum()
    }

    /// The name under which this subscriber has a place.
    fn place(&mut self, name: &str, now: Instant) -> Arc<str> {
        if !self.places.contains_key(name) {
            let is_idle = |place: &Place<T>| {
                place.waiting() == 0 && now.saturating_duration_since(place.seen) > FORGOTTEN_AFTER
            };
            if self.places.len() > MAX_SUBSCRIBERS {
                self.places.retain(|name, place| **name == *OTHERS || !is_idle(place));
            }
            if self.places.len() > MAX_SUBSCRIBERS {
                return OTHERS.into();
            }
            self.places.insert(name.into(), Place::new(now));
        }
        let (name, _) = self.places.get_key_value(name).expect("it has a place");
        let name = name.clone();
        self.places.get_mut(&name).expect("it has a place").seen = now;
        name
    }

    fn line(&mut self, name: &str, lane: Lane) -> &mut Line<T> {
        &mut self.places.get_mut(name).expect("it has a place").lines[lane as usize]
    }

    /// A line in which nobody waits saves nothing up.
    fn catch_up(&mut self, name: &str, lane: Lane) {
        let tag = self.tag;
        let line = self.line(name, lane);
        if line.waiting.is_empty() {
            line.tag = line.tag.max(tag);
        }
    }

    /// The line whose turn it is: the one that would have the lowest tag after it, so that a few fresh changes do not wait
    /// for the large turns of others; at equal tags a fresh one, and then the one that has waited longest.
    fn lowest(&self) -> Option<(Arc<str>, Lane)> {
        let lines = self.places.iter().flat_map(|(name, place)| {
            Lane::ALL.into_iter().filter_map(move |lane| {
                let line = &place.lines[lane as usize];
                let front = line.waiting.front()?;
                let after = line.tag + self.at_a_time(front.entities) as u64;
                Some(((after, lane, front.arrival), name))
            })
        });
        lines.min().map(|((_, lane, _), name)| (name.clone(), lane))
    }

    /// How many of these entities one turn may take.
    pub(super) fn at_a_time(&self, entities: usize) -> usize {
        let turn = self.per_second.map_or(f64::MAX, |rate| rate * TURN.as_secs_f64()) as usize;
        entities.min(turn.max(1))
    }

    fn grant(&mut self, name: &str, lane: Lane, entities: usize, now: Instant) -> usize {
        let granted = self.at_a_time(entities);
        self.tag = self.tag.max(self.line(name, lane).tag);
        self.pay(name, lane, granted, now);
        granted
    }

    fn pay(&mut self, name: &str, lane: Lane, entities: usize, now: Instant) {
        let (tag, paid) = (self.tag, entities as u64);
        let line = self.line(name, lane);
        line.tag += paid;
        line.taken.entities += paid;
        if lane == Lane::Fresh {
            let backlog = self.line(name, Lane::Backlog);
            backlog.tag = backlog.tag.max(tag) + paid;
        }
        if let Some(rate) = self.per_second {
            let unused = now.checked_sub(BURST).unwrap_or(now);
            let cost = Duration::from_secs_f64(entities as f64 / rate);
            self.used_until = self.used_until.max(unused) + cost;
        }
    }

    /// Whether one more may wait: its turn would come in time.
    fn has_room(&self, now: Instant) -> bool {
        self.waiting() < MAX_WAITING && self.drained_in(now) < MAX_WAIT.as_secs_f64()
    }

    fn forget_who_gave_up(&mut self) {
        let is_awaited = self.is_awaited;
        for line in self.places.values_mut().flat_map(|place| &mut place.lines) {
            line.waiting.retain(|waiting| is_awaited(&waiting.who));
        }
    }

    /// Whose newest callback, and in which lane, makes room for one more of this subscriber: whoever has more of them waiting,
    /// with that one counted. Where they are equally many, backlog makes room for a fresh change, as a subscriber's own does.
    fn loser(&self, name: &str, lane: Lane) -> Option<(Arc<str>, Lane)> {
        let own = self.places[name].waiting() + 1;
        let loses = |(other, place): (&Arc<str>, &Place<T>)| {
            let waiting = place.waiting();
            let has_backlog = !place.lines[Lane::Backlog as usize].waiting.is_empty();
            let yields = lane == Lane::Fresh && has_backlog;
            let loses = match **other == *name {
                true => yields,
                false => waiting > own || (yields && waiting == own),
            };
            let of = if has_backlog { Lane::Backlog } else { Lane::Fresh };
            loses.then(|| (waiting, other.clone(), of))
        };
        let loser = self.places.iter().filter_map(loses).max_by_key(|(waiting, ..)| *waiting);
        loser.map(|(_, loser, of)| (loser, of))
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
