//! What subscribers tell of single keys, folded so that it stays small however much they tell. Pure.

use std::collections::{BTreeMap, HashMap};

use nudge_protocol::{
    EntityId, EntityName, Notification, Version,
    admin::{Event, EventKind},
};
use serde::Serialize;

use super::view::{View, shortened};

/// Most keys of which a frame tells, and which are remembered: those of which something was told last.
pub(super) const MAX_KEYS: usize = 32;

/// What is known, and what of it is new since the last frame.
#[derive(Debug, Default)]
pub(super) struct Board {
    keys: HashMap<(EntityName, EntityId), Row>,
    /// Rises with each event.
    clock: u64,
    /// Its value at the last frame.
    framed: u64,
    /// Keys that had something new and were forgotten before a frame could tell.
    more_keys: u64,
    counts: AllCounts,
    missed: BTreeMap<&'static str, u64>,
    links: BTreeMap<&'static str, bool>,
    links_changed: bool,
    /// The last look; `None` before the first.
    view: Option<View>,
    view_changed: bool,
}

/// Of each subscriber and each kind of entity.
type AllCounts = BTreeMap<&'static str, BTreeMap<EntityName, Counts>>;

/// A key, and how far each subscriber is with it.
#[derive(Clone, Debug)]
struct Row {
    touched: u64,
    by: BTreeMap<&'static str, Step>,
}

/// How far one subscriber is with one key.
#[derive(Clone, Debug, Default, Serialize)]
struct Step {
    /// What it told last.
    kind: Option<EventKind>,
    /// What its read model holds.
    version: Option<Version>,
    deleted: bool,
    lag_ms: Option<f64>,
    /// When it told of its last run, in microseconds since 1970.
    received_us: Option<i64>,
    fetched_us: Option<i64>,
    ended_us: Option<i64>,
    /// Why it failed last.
    detail: Option<String>,
    /// Failures since it last held the owner's state.
    retries: u32,
    /// How often it told, since the board knows the key.
    received: u64,
    fetched: u64,
    applied: u64,
}

/// What one subscriber told of one kind of entity between two frames.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Counts {
    received: u64,
    /// Bytes of the bodies of those notifications.
    wire_bytes: u64,
    fetched: u64,
    applied: u64,
    ignored: u64,
    retried: u64,
    dead_lettered: u64,
    max_lag_ms: Option<f64>,
}

/// What a page is told. A page that got the earlier frames, or a snapshot, knows everything after it.
#[derive(Debug, Serialize)]
pub(super) struct Frame<'a> {
    /// Whether it holds everything that is known; otherwise what is new.
    snapshot: bool,
    /// Now, in microseconds since 1970: the browser's clock may be another.
    now_us: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<&'a View>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<&'a BTreeMap<&'static str, bool>>,
    keys: Vec<KeyOf<'a>>,
    more_keys: u64,
    counts: AllCounts,
    /// Events of each subscriber that it told too fast, and which are lost.
    missed: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct KeyOf<'a> {
    entity: &'a EntityName,
    id: &'a EntityId,
    by: &'a BTreeMap<&'static str, Step>,
}

impl Board {
    /// Takes what a subscriber told.
    pub(super) fn event(&mut self, subscriber: &'static str, event: Event) {
        let counts = self.counts.entry(subscriber).or_default();
        match counts.get_mut(&event.entity) {
            Some(counts) => counts.add(&event),
            None => counts.entry(event.entity.clone()).or_default().add(&event),
        }
        self.clock += 1;
        let key = (event.entity.clone(), event.id.clone());
        if !self.keys.contains_key(&key) {
            self.make_room();
            self.keys.insert(key.clone(), Row { touched: 0, by: BTreeMap::new() });
        }
        let row = self.keys.get_mut(&key).expect("it was just inserted");
        row.touched = self.clock;
        row.by.entry(subscriber).or_default().take(event);
    }

    fn make_room(&mut self) {
        if self.keys.len() < MAX_KEYS {
            return;
        }
        let oldest = self.keys.iter().min_by_key(|(_, row)| row.touched);
        let oldest = oldest.map(|(key, row)| (key.clone(), row.touched));
        if let Some((key, touched)) = oldest {
            self.more_keys += u64::from(touched > self.framed);
            self.keys.remove(&key);
        }
    }

    /// A subscriber told too fast, and this many events were lost.
    pub(super) fn missed(&mut self, subscriber: &'static str, count: u64) {
        *self.missed.entry(subscriber).or_default() += count;
    }

    /// The connection to a subscriber's events came up or went down.
    pub(super) fn link(&mut self, subscriber: &'static str, up: bool) {
        self.links_changed |= self.links.insert(subscriber, up) != Some(up);
    }

    /// Takes a look at everything.
    pub(super) fn view(&mut self, view: View) {
        (self.view, self.view_changed) = (Some(view), true);
    }

    /// What is new, as JSON; `None` if nothing is.
    pub(super) fn frame(&mut self, now_us: i64) -> Option<String> {
        let news = self.clock > self.framed || !self.missed.is_empty();
        if !news && !self.links_changed && !self.view_changed {
            return None;
        }
        let (counts, missed) = (std::mem::take(&mut self.counts), std::mem::take(&mut self.missed));
        let frame = Frame {
            snapshot: false,
            now_us,
            view: self.view.as_ref().filter(|_| self.view_changed),
            links: self.links_changed.then_some(&self.links),
            keys: self.keys_since(self.framed),
            more_keys: self.more_keys,
            counts,
            missed,
        };
        let text = written(&frame);
        (self.framed, self.more_keys) = (self.clock, 0);
        (self.view_changed, self.links_changed) = (false, false);
        Some(text)
    }

    /// Everything that the frames so far have told, as JSON.
    pub(super) fn snapshot(&self, now_us: i64) -> String {
        written(&Frame {
            snapshot: true,
            now_us,
            view: self.view.as_ref(),
            links: Some(&self.links),
            keys: self.keys_since(0),
            more_keys: 0,
            counts: BTreeMap::new(),
            missed: BTreeMap::new(),
        })
    }

    /// Oldest first.
    fn keys_since<'a>(&'a self, since: u64) -> Vec<KeyOf<'a>> {
        let mut rows: Vec<_> = self.keys.iter().filter(|(_, row)| row.touched > since).collect();
        rows.sort_unstable_by_key(|(_, row)| row.touched);
        let key = |((entity, id), row): (&'a (EntityName, EntityId), &'a Row)| KeyOf {
            entity,
            id,
            by: &row.by,
        };
        rows.into_iter().map(key).collect()
    }
}

fn written(frame: &Frame<'_>) -> String {
    serde_json::to_string(frame).expect("maps with names as keys always serialize")
}

impl Step {
    fn take(&mut self, event: Event) {
        let at = event.at.map(|at| at.unix_micros());
        self.kind = Some(event.kind);
        match event.kind {
            EventKind::Received | EventKind::Malformed => {
                // The first of a new run; more may arrive before the owner is asked.
                if self.ended_us.is_some() || self.received_us.is_none() {
                    (self.received_us, self.fetched_us, self.ended_us) = (at, None, None);
                }
                self.received += 1;
            }
            EventKind::Fetched => {
                // A retry or a replay: nothing was received for it.
                if self.ended_us.take().is_some() {
                    self.received_us = None;
                }
                self.fetched_us = at;
                self.fetched += 1;
            }
            EventKind::Applied | EventKind::Ignored => {
                self.version = event.version.max(self.version);
                self.deleted = event.deleted.unwrap_or(self.deleted);
                self.lag_ms = event.lag_seconds.map(|seconds| seconds * 1e3).or(self.lag_ms);
                (self.ended_us, self.retries, self.detail) = (at, 0, None);
                self.applied += u64::from(event.kind == EventKind::Applied);
            }
            EventKind::Retried | EventKind::DeadLettered => {
                self.detail = event.detail.as_deref().map(shortened);
                self.retries += 1;
                self.ended_us = at;
            }
        }
    }
}

impl Counts {
    fn add(&mut self, event: &Event) {
        let counter = match event.kind {
            EventKind::Received | EventKind::Malformed => {
                self.wire_bytes += body_bytes(&event.id);
                &mut self.received
            }
            EventKind::Fetched => &mut self.fetched,
            EventKind::Applied => {
                let lag = event.lag_seconds.map(|seconds| seconds * 1e3);
                self.max_lag_ms = match (self.max_lag_ms, lag) {
                    (Some(most), Some(lag)) => Some(most.max(lag)),
                    (most, lag) => most.or(lag),
                };
                &mut self.applied
            }
            EventKind::Ignored => &mut self.ignored,
            EventKind::Retried => &mut self.retried,
            EventKind::DeadLettered => &mut self.dead_lettered,
        };
        *counter += 1;
    }
}

/// The length of a notification's body. Every change has a word of the same length.
fn body_bytes(id: &EntityId) -> u64 {
    let notification = Notification { id: id.clone(), change: nudge_protocol::Change::Updated };
    notification.to_json().len() as u64
}

#[cfg(test)]
mod tests;
