//! The changes in progress. Pure: events, answers and the time come in, rows to show come out.

use std::collections::{BTreeMap, HashMap, HashSet};

use nudge_protocol::{
    EntityName, Timestamp, Version,
    admin::{Event, EventKind},
};

use super::{
    row::{Description, Key, Row, Step, millis},
    settled::Settled,
    summary::Tally,
};

/// Most changes that are followed at a time. Beyond this, the oldest is shown as it is.
const MAX_ROWS: usize = 10_000;
/// How long a finished row waits for its name.
const NAME_PATIENCE_SECONDS: f64 = 0.3;
/// How long a row without news waits for some.
const REPEAT_PATIENCE_SECONDS: f64 = 1.0;
/// A row that is still in progress after this long is shown as it is, and again when it is done.
const SETTLE_PATIENCE_SECONDS: f64 = 5.0;

/// The changes in progress, and totals.
#[derive(Debug)]
pub(crate) struct Board {
    follows: Vec<Option<HashSet<EntityName>>>,
    rows: BTreeMap<u64, Row>,
    by_key: HashMap<Key, Vec<u64>>,
    settled: Settled,
    next_number: u64,
    /// Where [`Board::overdue`] goes on.
    asked_up_to: u64,
    /// Changes shown so far.
    pub(crate) changes: u64,
    /// One per subscriber.
    pub(crate) tallies: Vec<Tally>,
}

impl Board {
    /// For this many subscribers.
    pub(crate) fn new(subscribers: usize) -> Self {
        Self {
            follows: vec![None; subscribers],
            rows: BTreeMap::new(),
            by_key: HashMap::new(),
            settled: Settled::default(),
            next_number: 0,
            asked_up_to: 0,
            changes: 0,
            tallies: vec![Tally::default(); subscribers],
        }
    }

    /// What a subscriber follows. Until it is known, everything is expected of it.
    pub(crate) fn set_follows(&mut self, subscriber: usize, entities: HashSet<EntityName>) {
        for row in self.rows.values_mut() {
            let step = &mut row.steps[subscriber];
            if *step == Step::Waiting && !entities.contains(&row.key.0) {
                *step = Step::NotFollowed;
            }
        }
        self.follows[subscriber] = Some(entities);
    }

    /// Takes an event. Returns the key when it began a new row, which then wants a description.
    pub(crate) fn take(&mut self, subscriber: usize, event: &Event, now: Timestamp) -> Option<Key> {
        self.count(subscriber, event);
        let key = (event.entity.clone(), event.id.clone());
        let news =
            [EventKind::Applied, EventKind::Retried, EventKind::DeadLettered].contains(&event.kind);
        let found = self.find(subscriber, &key, event.version);
        let known = event.version.is_some_and(|version| self.settled.covers(&key, version));
        if found.is_none() && known && !news {
            return None;
        }
        let number = found.unwrap_or_else(|| self.begin(key.clone(), now));
        let row = self.rows.get_mut(&number).expect("the row was just found or begun");
        row.version = row.version.or(event.version);
        row.deleted |= event.deleted == Some(true) && event.version == row.version;
        if let (None, Some(at), Some(lag)) = (row.committed_at, event.at, event.lag_seconds) {
            let micros = at.unix_micros() - (lag * 1e6) as i64;
            row.committed_at = Some(Timestamp::from_unix_micros(micros));
        }
        row.steps[subscriber] = row.steps[subscriber].after(event);
        if let (EventKind::Applied | EventKind::Ignored, Some(version)) =
            (event.kind, event.version)
        {
            self.overtake(subscriber, &key, version);
        }
        found.is_none().then_some(key)
    }

    /// Takes the owner's answers.
    pub(crate) fn describe(&mut self, description: &Description) {
        for number in self.by_key.get(&description.key).into_iter().flatten() {
            let Some(row) = self.rows.get_mut(number) else {
                continue;
            };
            row.described = true;
            row.name = description.name.clone().or(row.name.take());
            // The answer may be about a later version than the row.
            if row.version.is_some() && row.version == description.version {
                row.deleted = description.deleted;
                row.committed_at = row.committed_at.or(description.changed_at);
            }
        }
    }

    /// Takes what a subscriber says of a key whose events may have been missed.
    pub(crate) fn found(
        &mut self,
        subscriber: usize,
        key: &Key,
        version: Version,
        applied_at: Timestamp,
    ) {
        for number in self.by_key.get(key).into_iter().flatten() {
            let Some(row) = self.rows.get_mut(number) else {
                continue;
            };
            if row.version == Some(version) && !row.steps[subscriber].is_final() {
                let lag = row.committed_at.map(|committed| applied_at.seconds_since(committed));
                row.steps[subscriber] = Step::Applied { lag_ms: lag.map(millis) };
            }
        }
        self.overtake(subscriber, key, version);
    }

    /// Keys whose rows were shown unfinished: a subscriber that is `up` may have finished them
    /// while we were not listening. A few at a time, each in its turn.
    pub(crate) fn overdue(&mut self, up: &[bool], most: usize) -> Vec<(usize, Key)> {
        let mut overdue = Vec::new();
        let from = self.asked_up_to;
        self.asked_up_to = 0;
        for (&number, row) in self.rows.range(from..).filter(|(_, row)| row.told) {
            if overdue.len() >= most {
                self.asked_up_to = number;
                break;
            }
            let open = row.steps.iter().enumerate().filter(|(_, step)| !step.is_final());
            let open = open.filter(|(subscriber, _)| up[*subscriber]);
            overdue.extend(open.map(|(subscriber, _)| (subscriber, row.key.clone())));
        }
        overdue
    }

    /// The rows to show now, oldest first. Finished ones leave the board.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Row> {
        let mut excess = self.rows.len().saturating_sub(MAX_ROWS);
        let (mut due, mut gone) = (Vec::new(), Vec::new());
        for (&number, row) in &mut self.rows {
            let age = now.seconds_since(row.first_seen);
            let named = row.described || age > NAME_PATIENCE_SECONDS;
            let settled = row.is_settled() && named;
            let idle = row.is_nothing_new() && age > REPEAT_PATIENCE_SECONDS;
            let leaves = excess > 0 || settled || idle;
            excess = excess.saturating_sub(1);
            let late = age > SETTLE_PATIENCE_SECONDS && !row.told;
            if (leaves || late) && !row.is_nothing_new() {
                self.changes += u64::from(!row.told);
                due.push(row.clone());
                row.told = true;
            }
            if leaves {
                let settled_at = row.version.filter(|_| settled || idle);
                settled_at.inspect(|version| self.settled.note(&row.key, *version));
                gone.push(number);
            }
        }
        for number in gone {
            self.remove(number);
        }
        due
    }

    /// The rows in progress that were not shown yet, oldest first.
    pub(crate) fn live(&self) -> impl DoubleEndedIterator<Item = &Row> {
        let untold = self.rows.values().filter(|row| !row.told);
        untold.filter(|row| !row.is_nothing_new())
    }

    /// How many rows are in progress, shown or not.
    pub(crate) fn under_way(&self) -> usize {
        let open = self.rows.values().filter(|row| !row.is_settled());
        open.filter(|row| !row.is_nothing_new()).count()
    }

    /// Takes all rows that were not shown yet, for the end.
    pub(crate) fn finish(&mut self) -> Vec<Row> {
        let rows = std::mem::take(&mut self.rows);
        self.by_key.clear();
        let untold = rows.into_values().filter(|row| !row.told && !row.is_nothing_new());
        let untold: Vec<_> = untold.collect();
        self.changes += untold.len() as u64;
        untold
    }

    fn count(&mut self, subscriber: usize, event: &Event) {
        let tally = &mut self.tallies[subscriber];
        match event.kind {
            EventKind::Applied => tally.applied(event.lag_seconds),
            EventKind::Ignored => tally.ignored += 1,
            EventKind::Retried => tally.retried += 1,
            EventKind::DeadLettered => tally.dead_lettered += 1,
            EventKind::Received | EventKind::Malformed | EventKind::Fetched => {}
        }
    }

    /// The row that an event is about: the one of its version; else one whose version nobody has
    /// shown yet. An event without a version is about the newest row that the subscriber is not
    /// done with.
    fn find(&self, subscriber: usize, key: &Key, version: Option<Version>) -> Option<u64> {
        let numbers = self.by_key.get(key)?;
        let newest = |wanted: &dyn Fn(&Row) -> bool| {
            numbers.iter().rev().copied().find(|number| wanted(&self.rows[number]))
        };
        match version {
            Some(_) => newest(&|row| row.version == version)
                .or_else(|| newest(&|row| row.version.is_none())),
            None => newest(&|row| !row.steps[subscriber].is_final()),
        }
    }

    fn begin(&mut self, key: Key, now: Timestamp) -> u64 {
        let followed = |follows: &Option<HashSet<EntityName>>| {
            follows.as_ref().is_none_or(|entities| entities.contains(&key.0))
        };
        let step = |follows| {
            if followed(follows) { Step::Waiting } else { Step::NotFollowed }
        };
        let row = Row {
            version: None,
            name: None,
            deleted: false,
            committed_at: None,
            first_seen: now,
            steps: self.follows.iter().map(step).collect(),
            described: false,
            told: false,
            key: key.clone(),
        };
        let number = self.next_number;
        self.next_number += 1;
        self.rows.insert(number, row);
        self.by_key.entry(key).or_default().push(number);
        number
    }

    /// Older changes of the key need nothing more: the subscriber holds `version`.
    fn overtake(&mut self, subscriber: usize, key: &Key, version: Version) {
        for number in self.by_key.get(key).into_iter().flatten() {
            let Some(row) = self.rows.get_mut(number) else {
                continue;
            };
            let step = &mut row.steps[subscriber];
            if row.version.is_none_or(|older| older < version) && !step.is_final() {
                *step = Step::Overtaken { by: version };
            }
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(row) = self.rows.remove(&number) else {
            return;
        };
        if let Some(numbers) = self.by_key.get_mut(&row.key) {
            numbers.retain(|&other| other != number);
            if numbers.is_empty() {
                self.by_key.remove(&row.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
