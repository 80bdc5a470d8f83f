//! The state of the model: as little as the rules need, so that every state can be visited.

use crate::scenario::{Left, Scenario};

/// Maximum number of keys, relays and replicas in a scenario.
pub(crate) const MANY: usize = 2;

/// The version of a key's state at the owner; 0 if it was never written.
pub(crate) type Version = u8;

/// The message in the stream for a key. Compaction keeps one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Message {
    /// The version that it names; 0 if it names none.
    pub(crate) version: Version,
    pub(crate) delivery: Delivery,
}

/// The state of the message for the shared durable consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Delivery {
    #[default]
    Waiting,
    Pending,
    Acknowledged,
    /// At a sequence that the consumer had passed before the broker went back: it is not delivered.
    Passed,
}

/// A key's row in the table of parked keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Parked {
    #[default]
    No,
    /// It is retried automatically.
    Retried(Version),
    /// A dead letter: only a newer version closes it.
    Dead(Version),
}

/// One key: at the owner, in the stream, and in the read model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The version of its state. Equal to `version` unless a rule is removed.
    pub(crate) written: Version,
    /// Only without [`RecordWithChange`](crate::Rule::RecordWithChange): changed, not recorded yet.
    pub(crate) unrecorded: bool,
    pub(crate) version: Version,
    /// The highest version that the owner ever gave. A clock gives them, so an owner that goes back to an older state
    /// gives none of them again.
    pub(crate) given: Version,
    pub(crate) published_version: Version,
    pub(crate) published_seq: u8,
    /// The stream's last sequence, as far as this key can tell: only its order matters.
    pub(crate) last_seq: u8,
    /// How far the durable consumer's position is beyond the stream's end.
    pub(crate) beyond: u8,
    pub(crate) message: Option<Message>,
    /// The version of an abandoned publish that is still in transit; 0 if there is none.
    pub(crate) late: Version,
    pub(crate) applied: Version,
    /// The highest version ever applied, below which `applied` must not fall.
    pub(crate) highest: Version,
    pub(crate) readable: u8,
    pub(crate) parked: Parked,
}

/// The owner's answer for a key at a version: odd versions create it, even ones delete it.
pub(crate) const fn state_at(version: Version) -> u8 {
    if version % 2 == 1 { version } else { 0 }
}

impl Key {
    /// Changes it to a state that exists or not, in a version above all that were given.
    pub(crate) fn change(&mut self, exists: bool) {
        let next = self.given + 1;
        self.written = if (next % 2 == 1) == exists { next } else { next + 1 };
        self.given = self.written;
    }
}

/// The progress of a relay with one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Round {
    #[default]
    Idle,
    Read(Version),
    /// It knows that the stream contains this, and has not marked it yet.
    Published {
        version: Version,
        seq: u8,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Relay {
    pub(crate) rounds: [Round; MANY],
    /// It must check the stream before it reads rows.
    pub(crate) disconnected: bool,
}

/// The work of a replica on a key that is not in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) dirty: bool,
    /// Whether it holds the acknowledgement of the message that is in the stream. That of a replaced message has no
    /// effect, and is not modelled.
    pub(crate) token: bool,
    pub(crate) floor: Version,
    pub(crate) unsure: bool,
    /// Enough time has passed that the answer is not stale.
    pub(crate) rested: bool,
}

impl Entry {
    pub(crate) fn merge(&mut self, other: Entry) {
        self.dirty |= other.dirty;
        self.token |= other.token;
        self.floor = self.floor.max(other.floor);
        self.unsure |= other.unsure;
        self.rested |= other.rested;
    }
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum End {
    #[default]
    Open,
    Done,
    Again,
    Park,
    Dead,
}

/// One key of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    pub(crate) work: Entry,
    pub(crate) version: Version,
    pub(crate) content: u8,
    pub(crate) end: End,
}

/// The progress of a replica's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    #[default]
    Idle,
    Asked,
    /// Only without [`OneSnapshot`](crate::Rule::OneSnapshot): the state is read, its version not.
    HalfRead,
    Answered,
    /// Only without [`OneTransaction`](crate::Rule::OneTransaction): the guard's write is committed, but that of the
    /// service's own tables is not.
    HalfWritten,
    Ended,
    Parked,
    /// Only without [`ParkBeforeAck`](crate::Rule::ParkBeforeAck).
    Acknowledged,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Replica {
    pub(crate) entries: [Entry; MANY],
    pub(crate) runs: [Option<Run>; MANY],
    pub(crate) step: Step,
}

impl Replica {
    /// Whether it works on a key, or is about to.
    pub(crate) fn works_on(&self, key: usize) -> bool {
        self.entries[key].dirty || self.runs[key].is_some()
    }

    /// Whether it holds the acknowledgement of the key's message.
    pub(crate) fn holds(&self, key: usize) -> bool {
        self.entries[key].token || self.runs[key].is_some_and(|run| run.work.token)
    }
}

/// The whole system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) keys: [Key; MANY],
    pub(crate) relays: [Relay; MANY],
    pub(crate) replicas: [Replica; MANY],
    pub(crate) left: Left,
}

impl State {
    /// Puts a message into the stream. The one that it replaces is gone, even for those who hold it.
    pub(crate) fn put(&mut self, key: usize, message: Option<Message>) {
        self.keys[key].message = message;
        self.drop_tokens(key);
    }

    fn drop_tokens(&mut self, key: usize) {
        for replica in &mut self.replicas {
            replica.entries[key].token = false;
            if let Some(run) = &mut replica.runs[key] {
                run.work.token = false;
            }
        }
    }

    /// Brings states that do not differ in anything relevant to the same form.
    pub(crate) fn canonical(&mut self, interchangeable: Option<&Scenario>) {
        for key in 0..MANY {
            self.compress_sequences(key);
            let pending = |m: Message| m.delivery == Delivery::Pending;
            if !self.keys[key].message.is_some_and(pending) {
                self.drop_tokens(key);
            }
        }
        if let Some(scenario) = interchangeable {
            self.relays[..scenario.relays].sort_unstable();
            self.replicas[..scenario.replicas].sort_unstable();
        }
    }

    /// Only the order of sequences matters. There is room below the lowest one, for the broker to go back to.
    fn compress_sequences(&mut self, key: usize) {
        let row = &mut self.keys[key];
        let mut places = vec![&mut row.published_seq, &mut row.last_seq];
        for relay in &mut self.relays {
            if let Round::Published { seq, .. } = &mut relay.rounds[key] {
                places.push(seq);
            }
        }
        places.sort_unstable();
        let mut rank = 1;
        let mut before = *places[0];
        for place in places {
            rank += u8::from(*place > before);
            before = std::mem::replace(place, rank);
        }
    }
}
