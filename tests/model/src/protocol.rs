//! The model in Stateright's terms: what can happen next, and what must always hold.

use std::fmt;

use stateright::{Model, Property};

use crate::{
    rule::Rule,
    scenario::{Left, Scenario},
    state::{Delivery, Parked, State, state_at},
};

/// A property of the scenario, not of the protocol: everything that it allows can happen.
pub(crate) const USED_UP: &str = "everything that may happen has happened";

/// One event. The numbers identify the relay or replica, and the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`Display` describes each")]
pub enum Action {
    Edit(usize),
    Record(usize),
    OwnerCrash(usize),
    Read(usize, usize),
    Publish(usize, usize),
    Mark(usize, usize),
    GiveUp(usize, usize),
    Arrive(usize),
    ReadOn(usize, usize),
    Connect(usize),
    RelayCrash(usize),
    Lose(usize),
    Forget(usize),
    Foreign(usize),
    Echo(usize),
    Restore(usize),
    PutBack(usize, usize),
    Deliver(usize, usize),
    Redeliver(usize, usize),
    Timeout(usize, usize),
    Take(usize, [bool; 2]),
    EarlyAck(usize),
    Answer { replica: usize, back: u8 },
    ReadVersion(usize),
    Fail(usize),
    Commit(usize),
    Write(usize),
    Park(usize),
    Acknowledge(usize),
    Crash(usize),
    Reenter(usize, usize),
    Resync(usize, usize),
    Renew(usize, usize),
}

impl Action {
    /// Whether it is a step of the protocol itself, neither a fault nor a change by the owner. An abandoned publish may
    /// or may not arrive; everyone must converge in either case.
    pub fn is_progress(self) -> bool {
        use Action::*;
        match self {
            Edit(_) | OwnerCrash(_) | RelayCrash(_) | Lose(_) | Forget(_) | Foreign(_) => false,
            Restore(_) => false,
            GiveUp(..) | Arrive(_) | Echo(_) | Timeout(..) | Fail(_) | Crash(_) => false,
            Answer { back, .. } => back == 0,
            _ => true,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Action::*;
        match self {
            Edit(k) => write!(f, "owner edits key {k}"),
            Record(k) => write!(f, "owner records the change of key {k}"),
            OwnerCrash(k) => write!(f, "owner dies before it records the change of key {k}"),
            Read(r, k) => write!(f, "relay {r} reads key {k}"),
            Publish(r, k) => write!(f, "relay {r} publishes key {k}"),
            Mark(r, k) => write!(f, "relay {r} marks key {k}"),
            GiveUp(r, k) => write!(f, "relay {r} abandons publishing key {k}"),
            Arrive(k) => write!(f, "the abandoned publish of key {k} reaches the broker"),
            ReadOn(r, k) => write!(f, "relay {r} reads the stream for key {k}"),
            Connect(r) => write!(f, "relay {r} connects"),
            RelayCrash(r) => write!(f, "relay {r} dies"),
            Lose(k) => write!(f, "the broker goes down and loses the message of key {k}"),
            Forget(k) => write!(f, "the broker loses the message of key {k} for good"),
            Foreign(k) => write!(f, "somebody publishes key {k} without a version"),
            Echo(k) => write!(f, "somebody publishes key {k} at version 1 again"),
            Restore(k) => write!(f, "owner goes back to an older state of key {k}"),
            PutBack(r, k) => write!(f, "replica {r} resets the consumer for key {k}"),
            Deliver(r, k) => write!(f, "replica {r} gets the message of key {k}"),
            Redeliver(r, k) => write!(f, "replica {r} gets the message of key {k}, held by nobody"),
            Timeout(r, k) => write!(f, "replica {r} gets the message of key {k} once more"),
            Take(r, [true, true]) => write!(f, "replica {r} asks for both keys"),
            Take(r, keys) => write!(f, "replica {r} asks for key {}", usize::from(keys[1])),
            EarlyAck(r) => write!(f, "replica {r} acknowledges early"),
            Answer { replica, back: 0 } => write!(f, "replica {replica} is answered"),
            Answer { replica, back } => {
                write!(f, "replica {replica} is answered from {back} version(s) ago")
            }
            ReadVersion(r) => write!(f, "replica {r} is told the version"),
            Fail(r) => write!(f, "replica {r} fails for good"),
            Commit(r) => write!(f, "replica {r} commits"),
            Write(r) => write!(f, "replica {r} writes the service's tables"),
            Park(r) => write!(f, "replica {r} parks"),
            Acknowledge(r) => write!(f, "replica {r} acknowledges"),
            Crash(r) => write!(f, "replica {r} dies"),
            Reenter(r, k) => write!(f, "replica {r} retries parked key {k}"),
            Resync(r, k) => write!(f, "replica {r} compares key {k} with the owner"),
            Renew(r, k) => write!(f, "replica {r} tells the owner which version it has of key {k}"),
        }
    }
}

/// The protocol under a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) scenario: Scenario,
    /// Whether replicas, and relays, are distinguished, which only a trace for people needs.
    pub(crate) named: bool,
}

impl Protocol {
    pub(crate) fn has(&self, rule: Rule) -> bool {
        self.scenario.without != Some(rule)
    }

    /// Whether nothing is left to do until the owner or a fault causes something new.
    fn is_settled(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        !actions.into_iter().any(Action::is_progress)
    }

    fn is_converged(&self, state: &State) -> bool {
        state.keys[..self.scenario.keys].iter().enumerate().all(|(n, key)| {
            if self.scenario.refused == Some((n, key.version)) {
                return matches!(key.parked, Parked::Dead(floor) if floor >= key.version);
            }
            key.applied == key.version
                && key.readable == state_at(key.written)
                && key.parked == Parked::No
        })
    }
}

fn is_covered(_: &Protocol, state: &State) -> bool {
    state.keys.iter().all(|key| {
        let acknowledged = key.message.filter(|m| m.delivery == Delivery::Acknowledged);
        acknowledged.is_none_or(|m| key.applied >= m.version || key.parked != Parked::No)
    })
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { left: self.scenario.left, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.owner_actions(state, actions);
        self.subscriber_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        if !self.owner_step(&mut next, action) {
            self.subscriber_step(&mut next, action);
        }
        next.canonical((!self.named).then_some(&self.scenario));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::sometimes(USED_UP, |_, state: &State| state.left == Left::default()),
            Property::always("an applied version never goes back", |_, state: &State| {
                state.keys.iter().all(|key| key.applied == key.highest)
            }),
            Property::always(
                "what is readable is the owner's state at that version",
                |_, state: &State| {
                    state.keys.iter().all(|key| key.readable == state_at(key.applied))
                },
            ),
            Property::always("an acknowledged notification is applied or parked", is_covered),
            Property::always("when nothing is left to do, all is as the owner says", |model, s| {
                !model.is_settled(s) || model.is_converged(s)
            }),
        ]
    }
}
