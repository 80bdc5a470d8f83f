//! What the broker delivers, and what the replicas of a subscriber do with it.

use crate::{
    protocol::{Action, Protocol},
    rule::Rule,
    state::{
        Delivery, End, Entry, Key, MANY, Message, Parked, Replica, Run, State, Step, state_at,
    },
};

impl Protocol {
    pub(crate) fn subscriber_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for r in 0..self.scenario.replicas {
            for k in 0..self.scenario.keys {
                self.key_actions(state, r, k, actions);
            }
            self.batch_actions(state, r, actions);
            let busy = state.replicas[r] != Replica::default();
            actions.extend((busy && state.left.crashes > 0).then_some(Action::Crash(r)));
        }
    }

    /// How work on a key starts: by a message, from the parked keys, or by comparison.
    fn key_actions(&self, state: &State, r: usize, k: usize, actions: &mut Vec<Action>) {
        let key = &state.keys[k];
        let held = state.replicas.iter().any(|replica| replica.holds(k));
        let idle = !state.replicas.iter().any(|replica| replica.works_on(k));
        actions.extend(match key.message.map(|message| message.delivery) {
            Some(Delivery::Waiting) => Some(Action::Deliver(r, k)),
            Some(Delivery::Pending) if !held => Some(Action::Redeliver(r, k)),
            Some(Delivery::Pending) if state.left.timeouts > 0 => Some(Action::Timeout(r, k)),
            _ => None,
        });
        let passed = key.message.is_some_and(|message| message.delivery == Delivery::Passed);
        let astray = (key.beyond > 0 || passed) && self.has(Rule::PlaceInStream);
        actions.extend(astray.then_some(Action::PutBack(r, k)));
        let due = idle && matches!(key.parked, Parked::Retried(_));
        actions.extend((due && self.has(Rule::Reentry)).then_some(Action::Reenter(r, k)));
        let dead = matches!(key.parked, Parked::Dead(floor) if floor >= key.version);
        let differs = idle && key.applied < key.version && !dead;
        let compared = self.scenario.resync && self.has(Rule::Resync);
        actions.extend((compared && differs).then_some(Action::Resync(r, k)));
        let ahead = idle && key.applied > key.version;
        let renews = self.scenario.resync && self.has(Rule::Renew);
        actions.extend((renews && ahead).then_some(Action::Renew(r, k)));
    }

    fn batch_actions(&self, state: &State, r: usize, actions: &mut Vec<Action>) {
        let replica = &state.replicas[r];
        match replica.step {
            Step::Idle => {
                let dirty = replica.entries.map(|entry| entry.dirty);
                let batches = [[true, false], [false, true], [true, true]];
                let possible = |batch: &[bool; 2]| (0..2).all(|k| !batch[k] || dirty[k]);
                actions.extend(batches.into_iter().filter(possible).map(|b| Action::Take(r, b)));
            }
            Step::Asked => {
                let rested = replica.runs.iter().flatten().any(|run| run.work.rested);
                let highest = state.keys.iter().map(|key| key.version).max().unwrap_or(0);
                let furthest = if state.left.stale > 0 && !rested { highest } else { 0 };
                actions.extend((0..=furthest).map(|back| Action::Answer { replica: r, back }));
                actions.extend((state.left.failures > 0).then_some(Action::Fail(r)));
                let early = !self.has(Rule::AckAfterCommit) && (0..2).any(|k| replica.holds(k));
                actions.extend(early.then_some(Action::EarlyAck(r)));
            }
            Step::HalfRead => actions.push(Action::ReadVersion(r)),
            Step::Answered => actions.push(Action::Commit(r)),
            Step::HalfWritten => actions.push(Action::Write(r)),
            Step::Ended if self.parks(replica) && self.has(Rule::ParkBeforeAck) => {
                actions.push(Action::Park(r));
            }
            Step::Acknowledged => actions.push(Action::Park(r)),
            Step::Ended | Step::Parked => actions.push(Action::Acknowledge(r)),
        }
    }

    fn parks(&self, replica: &Replica) -> bool {
        replica.runs.iter().flatten().any(|run| matches!(run.end, End::Park | End::Dead))
    }

    pub(crate) fn subscriber_step(&self, state: &mut State, action: Action) {
        match action {
            Action::PutBack(_, k) => put_back(&mut state.keys[k]),
            Action::Deliver(r, k) | Action::Redeliver(r, k) => self.deliver(state, r, k),
            Action::Timeout(r, k) => {
                state.left.timeouts -= 1;
                self.deliver(state, r, k);
            }
            Action::Take(r, keys) => take(&mut state.replicas[r], keys),
            Action::EarlyAck(r) => acknowledge(state, r, |_| true),
            Action::Answer { replica, back } => self.answer(state, replica, back),
            Action::ReadVersion(r) => {
                for (run, key) in state.replicas[r].runs.iter_mut().zip(&state.keys) {
                    run.iter_mut().for_each(|run| run.version = key.version);
                }
                state.replicas[r].step = Step::Answered;
            }
            Action::Fail(r) => {
                state.left.failures -= 1;
                state.replicas[r].runs.iter_mut().flatten().for_each(|run| run.end = End::Park);
                state.replicas[r].step = Step::Ended;
            }
            Action::Commit(r) => self.commit(state, r),
            Action::Write(r) => {
                for (run, key) in state.replicas[r].runs.iter().zip(&mut state.keys) {
                    let won = run.filter(|run| run.version == key.applied);
                    won.iter().for_each(|run| key.readable = run.content);
                }
                state.replicas[r].step = Step::Ended;
            }
            Action::Park(r) => self.park(state, r),
            Action::Acknowledge(r) => self.finish(state, r),
            Action::Crash(r) => {
                state.left.crashes -= 1;
                state.replicas[r] = Replica::default();
            }
            Action::Reenter(r, k) => {
                if let Parked::Retried(floor) = state.keys[k].parked {
                    push(state, r, k, Entry { floor, ..Entry::default() });
                }
            }
            Action::Resync(r, k) => {
                push(state, r, k, Entry { floor: state.keys[k].version, ..Entry::default() });
            }
            // It gives the state that it has a fresh version, above that one. Without a state, that is a tombstone.
            Action::Renew(_, k) => {
                let key = &mut state.keys[k];
                key.given = key.given.max(key.applied);
                key.change(key.version % 2 == 1);
                key.version = key.written;
            }
            _ => unreachable!("the owner's side takes {action:?}"),
        }
    }

    fn deliver(&self, state: &mut State, r: usize, k: usize) {
        let Some(Message { version, delivery }) = &mut state.keys[k].message else { return };
        let foreign = *version == 0;
        let skipped = match foreign {
            true => !self.has(Rule::MalformedCounts),
            false => !self.has(Rule::NoSkip) && *version <= state.keys[k].applied,
        };
        *delivery = if skipped { Delivery::Acknowledged } else { Delivery::Pending };
        if skipped {
            return;
        }
        let arrived = Entry { token: true, floor: *version, unsure: foreign, ..Entry::default() };
        let replica = &mut state.replicas[r];
        match &mut replica.runs[k] {
            Some(run) if !self.has(Rule::DirtyDuringRun) => run.work.merge(arrived),
            Some(run) if !self.has(Rule::TokensBeforeRun) => {
                run.work.merge(arrived);
                replica.entries[k].dirty = true;
            }
            _ => push(state, r, k, arrived),
        }
    }

    fn answer(&self, state: &mut State, r: usize, back: u8) {
        state.left.stale -= u8::from(back > 0);
        let replica = &mut state.replicas[r];
        for (run, key) in replica.runs.iter_mut().zip(&state.keys) {
            let Some(run) = run else { continue };
            run.version = key.version.saturating_sub(back);
            run.content = state_at(if back == 0 { key.written } else { run.version });
        }
        let half = back == 0 && !self.has(Rule::OneSnapshot);
        replica.step = if half { Step::HalfRead } else { Step::Answered };
    }

    /// One transaction. A batch with a key that the service refuses is split until that key is alone; the rest follows
    /// in a transaction of its own.
    fn commit(&self, state: &mut State, r: usize) {
        let replica = &mut state.replicas[r];
        let open = |k: &usize| replica.runs[*k].is_some_and(|run| run.end == End::Open);
        let mut part: Vec<usize> = (0..replica.runs.len()).filter(open).collect();
        // The guard passes only newer states to the service.
        let refused = |k: &usize| {
            let version = replica.runs[*k].map_or(0, |run| run.version);
            self.scenario.refused == Some((*k, version)) && version > state.keys[*k].applied
        };
        let mut rolled_back = part.iter().any(refused);
        let split = rolled_back && part.len() > 1 && self.has(Rule::SplitRefused);
        if split {
            part.truncate(1);
            rolled_back = part.iter().any(refused);
        }
        for k in part {
            let Some(run) = &mut replica.runs[k] else { continue };
            run.end = self.judge(run);
            if !rolled_back {
                self.apply(&mut state.keys[k], run);
            } else if run.end == End::Done {
                run.end = End::Dead;
            }
        }
        replica.step = match self.has(Rule::OneTransaction) {
            _ if split => Step::Answered,
            true => Step::Ended,
            false => Step::HalfWritten,
        };
    }

    fn judge(&self, run: &mut Run) -> End {
        let work = &mut run.work;
        if run.version == 0 {
            if self.has(Rule::UnknownIsNotDeleted) {
                return End::Again;
            }
            (run.version, run.content) = (work.floor, 0);
        }
        if run.version < work.floor && self.has(Rule::Floor) {
            return End::Again;
        }
        if work.unsure && self.has(Rule::SecondLook) {
            (work.unsure, work.rested) = (false, true);
            return End::Again;
        }
        End::Done
    }

    fn apply(&self, key: &mut Key, run: &Run) {
        if run.version == 0 {
            return;
        }
        if run.version > key.applied || !self.has(Rule::Guard) {
            key.applied = run.version;
            key.highest = key.highest.max(run.version);
            if self.has(Rule::OneTransaction) {
                key.readable = run.content;
            }
        }
        let below = !self.has(Rule::CloseAtFloor);
        match key.parked {
            Parked::Retried(floor) | Parked::Dead(floor) if run.version >= floor || below => {
                key.parked = Parked::No;
            }
            _ => {}
        }
    }

    fn park(&self, state: &mut State, r: usize) {
        for (run, key) in state.replicas[r].runs.iter().zip(&mut state.keys) {
            let Some(run) = run else { continue };
            let floor = run.work.floor.max(run.version);
            let there = match key.parked {
                Parked::No => 0,
                _ if !self.has(Rule::HigherFloorStays) => 0,
                Parked::Retried(floor) | Parked::Dead(floor) => floor,
            };
            let overtaken = key.applied >= run.version && self.has(Rule::ParkUnlessOvertaken);
            let older = matches!(key.parked, Parked::Retried(there) if there > floor)
                && self.has(Rule::OlderRefusalYields);
            match run.end {
                End::Park => key.parked = Parked::Retried(floor.max(there)),
                End::Dead if !overtaken && !older => key.parked = Parked::Dead(floor.max(there)),
                _ => {}
            }
        }
        let replica = &mut state.replicas[r];
        if replica.step == Step::Acknowledged {
            (replica.runs, replica.step) = Default::default();
        } else {
            replica.step = Step::Parked;
        }
    }

    /// Acknowledges what is handled, and returns the rest to the queue.
    fn finish(&self, state: &mut State, r: usize) {
        acknowledge(state, r, |run| run.end != End::Again);
        let replica = &mut state.replicas[r];
        for (run, entry) in replica.runs.iter_mut().zip(&mut replica.entries) {
            if let Some(again) = run.take_if(|run| run.end == End::Again) {
                let floor = if self.has(Rule::FloorStays) { again.work.floor } else { 0 };
                entry.merge(Entry { dirty: true, floor, ..again.work });
            }
        }
        if replica.step == Step::Ended && self.parks(replica) {
            replica.step = Step::Acknowledged;
        } else {
            (replica.runs, replica.step) = Default::default();
        }
    }
}

fn put_back(key: &mut Key) {
    key.beyond = 0;
    if let Some(message) = &mut key.message
        && message.delivery == Delivery::Passed
    {
        message.delivery = Delivery::Waiting;
    }
}

fn push(state: &mut State, r: usize, k: usize, work: Entry) {
    state.replicas[r].entries[k].merge(Entry { dirty: true, ..work });
}

fn take(replica: &mut Replica, keys: [bool; MANY]) {
    for k in (0..MANY).filter(|k| keys[*k]) {
        let work = std::mem::take(&mut replica.entries[k]);
        replica.runs[k] = Some(Run { work, ..Run::default() });
    }
    replica.step = Step::Asked;
}

/// Acknowledges the messages of some of a batch's runs, if they are still in the stream.
fn acknowledge(state: &mut State, r: usize, which: fn(&Run) -> bool) {
    for (run, key) in state.replicas[r].runs.iter().zip(&mut state.keys) {
        let handled = run.filter(|run| run.work.token && which(run));
        if let (Some(_), Some(message)) = (handled, &mut key.message) {
            message.delivery = Delivery::Acknowledged;
        }
    }
}
