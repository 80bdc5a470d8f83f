//! What the owner, its relays and the broker do.

use crate::{
    protocol::{Action, Protocol},
    rule::Rule,
    state::{Delivery, Key, Message, Parked, Relay, Round, State},
};

impl Protocol {
    pub(crate) fn owner_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (k, key) in state.keys[..self.scenario.keys].iter().enumerate() {
            let mut may = |possible: bool, action| actions.extend(possible.then_some(action));
            may(state.left.edits > 0 && !key.unrecorded, Action::Edit(k));
            may(key.unrecorded, Action::Record(k));
            may(key.unrecorded && state.left.relay_crashes > 0, Action::OwnerCrash(k));
            may(key.late > 0, Action::Arrive(k));
            may(state.left.losses > 0 && key.message.is_some(), Action::Lose(k));
            may(state.left.forgotten > 0 && key.message.is_some(), Action::Forget(k));
            may(state.left.foreign > 0 && key.version > 0, Action::Foreign(k));
            may(state.left.echoes > 0 && key.version > 0, Action::Echo(k));
            let quiet = key.message.is_none_or(|one| one.delivery == Delivery::Acknowledged)
                && key.published_version == key.version
                && key.parked == Parked::No
                && state.relays.iter().all(|relay| relay.rounds[k] == Round::Idle)
                && !state.replicas.iter().any(|replica| replica.works_on(k));
            may(state.left.restores > 0 && key.version > 0 && quiet, Action::Restore(k));
        }
        for (r, relay) in state.relays[..self.scenario.relays].iter().enumerate() {
            self.relay_actions(state, r, relay, actions);
        }
    }

    fn relay_actions(&self, state: &State, r: usize, relay: &Relay, actions: &mut Vec<Action>) {
        let mut may = |possible: bool, action| actions.extend(possible.then_some(action));
        let looks = !self.scenario.blind && self.has(Rule::ReadOn);
        for (k, key) in state.keys[..self.scenario.keys].iter().enumerate() {
            let pending = key.published_version != key.version;
            let unrecorded = key.message.is_some() && key.last_seq > key.published_seq;
            match relay.rounds[k] {
                Round::Idle => {
                    may(pending && !relay.disconnected, Action::Read(r, k));
                    may(looks && unrecorded && !relay.disconnected, Action::ReadOn(r, k));
                }
                Round::Read(_) => {
                    may(true, Action::Publish(r, k));
                    may(state.left.late > 0 && key.late == 0, Action::GiveUp(r, k));
                }
                Round::Published { .. } => may(true, Action::Mark(r, k)),
            }
        }
        may(relay.disconnected, Action::Connect(r));
        let busy = relay.rounds.iter().any(|round| *round != Round::Idle);
        // Its publish may still be in transit, whether the relay abandoned it or died.
        let gave_up = !relay.disconnected && state.keys.iter().any(|key| key.late > 0);
        may((busy || gave_up) && state.left.relay_crashes > 0, Action::RelayCrash(r));
    }

    /// Performs an action of the owner's side. Returns `false` if the action belongs to the subscriber's.
    pub(crate) fn owner_step(&self, state: &mut State, action: Action) -> bool {
        match action {
            Action::Edit(k) => {
                state.left.edits -= 1;
                let exists = state.keys[k].written % 2 == 1;
                state.keys[k].change(!exists);
                match self.has(Rule::RecordWithChange) {
                    true => state.keys[k].version = state.keys[k].written,
                    false => state.keys[k].unrecorded = true,
                }
            }
            Action::Record(k) => {
                state.keys[k].version = state.keys[k].written;
                state.keys[k].unrecorded = false;
            }
            Action::OwnerCrash(k) => {
                state.left.relay_crashes -= 1;
                state.keys[k].unrecorded = false;
            }
            Action::Lose(k) => {
                state.left.losses -= 1;
                let seen = |message: Message| message.delivery != Delivery::Waiting;
                let seen = state.keys[k].message.is_some_and(seen);
                state.keys[k].beyond += u8::from(self.scenario.keeps_place && seen);
                state.put(k, None);
                state.keys[k].last_seq -= 1;
                let relays = &mut state.relays[..self.scenario.relays];
                relays.iter_mut().for_each(|relay| relay.disconnected = true);
            }
            Action::Arrive(k) => {
                let version = std::mem::take(&mut state.keys[k].late);
                self.publish(state, k, version);
            }
            Action::Forget(k) => {
                state.left.forgotten -= 1;
                state.put(k, None);
            }
            // What was published for the older state is known to be published.
            Action::Restore(k) => {
                state.left.restores -= 1;
                let key = &mut state.keys[k];
                key.version -= 1;
                (key.written, key.published_version) = (key.version, key.version);
            }
            Action::Foreign(k) => {
                state.left.foreign -= 1;
                self.publish(state, k, 0);
            }
            Action::Echo(k) => {
                state.left.echoes -= 1;
                self.publish(state, k, 1);
            }
            _ => return self.relay_step(state, action),
        }
        true
    }

    fn relay_step(&self, state: &mut State, action: Action) -> bool {
        match action {
            Action::Read(r, k) => state.relays[r].rounds[k] = Round::Read(state.keys[k].version),
            Action::Publish(r, k) => {
                if let Round::Read(version) = state.relays[r].rounds[k] {
                    let seq = self.publish(state, k, version);
                    state.relays[r].rounds[k] = Round::Published { version, seq };
                }
            }
            Action::Mark(r, k) => self.mark(state, r, k),
            // It continues at once: nothing relies on the row becoming pending first.
            Action::GiveUp(r, k) => {
                if let Round::Read(version) = std::mem::take(&mut state.relays[r].rounds[k]) {
                    state.left.late -= 1;
                    state.keys[k].late = version;
                }
            }
            // From here on, it is as if this were an acknowledgement.
            Action::ReadOn(r, k) => {
                let Key { message, last_seq: seq, .. } = state.keys[k];
                if let Some(Message { version, .. }) = message {
                    state.relays[r].rounds[k] = Round::Published { version, seq };
                }
            }
            Action::Connect(r) => self.connect(state, r),
            Action::RelayCrash(r) => {
                state.left.relay_crashes -= 1;
                state.relays[r] = Relay { disconnected: true, ..Relay::default() };
            }
            _ => return false,
        }
        true
    }

    fn publish(&self, state: &mut State, k: usize, version: u8) -> u8 {
        let passed = state.keys[k].beyond > 0;
        state.keys[k].beyond -= u8::from(passed);
        let delivery = if passed { Delivery::Passed } else { Delivery::Waiting };
        state.put(k, Some(Message { version, delivery }));
        state.keys[k].last_seq += 1;
        state.keys[k].last_seq
    }

    fn mark(&self, state: &mut State, r: usize, k: usize) {
        let key = &mut state.keys[k];
        if let Round::Published { version, seq } = state.relays[r].rounds[k] {
            let newer = match self.has(Rule::MarkBySequence) {
                true => seq > key.published_seq,
                false => version > key.published_version,
            };
            if newer {
                (key.published_version, key.published_seq) = (version, seq);
            }
        }
        state.relays[r].rounds[k] = Round::Idle;
    }

    /// A round in progress is dropped, and recent changes become pending again. So does what this relay was publishing,
    /// unless it died and no longer knows.
    fn connect(&self, state: &mut State, r: usize) {
        let relay = std::mem::take(&mut state.relays[r]);
        if !self.has(Rule::PublishAgain) {
            return;
        }
        for (key, round) in state.keys.iter_mut().zip(relay.rounds) {
            let marked = key.published_version != 0;
            if marked || round != Round::Idle || self.has(Rule::UnmarkedToo) {
                key.published_version = 0;
                if self.has(Rule::AtLastSequence) {
                    key.published_seq = key.last_seq;
                }
            }
        }
    }
}
