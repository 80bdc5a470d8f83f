//! What the model remembers: as little as the rules need, so that every state can be visited.

use crate::scenario::{Left, Scenario};

/// Most keys, relays and replicas of a scenario.
pub(crate) const MANY: usize = 2;

/// A number of an owner's state of a key; 0 is "never written".
pub(crate) type Version = u8;

/// The message in the stream for a key. Compaction keeps one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Message {
    /// The version it names; 0 when it names none.
    pub(crate) version: Version,
    pub(crate) delivery: Delivery,
}

/// How the shared durable consumer sees the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Delivery {
    #[default]
    Waiting,
    Pending,
    Acknowledged,
    /// Where the consumer has been already, in a numbering that the broker has lost: it is not delivered.
    Passed,
}

/// A key's row in the table of parked keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Parked {
    #[default]
    No,
    /// It comes back by itself.
    Retried(Version),
    /// A dead letter: only a newer version closes it.
    Dead(Version),
}

/// One key, at the owner, in the stream, and in the read model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// How often the owner changed it. Equal to `version` unless that rule is taken away.
    pub(crate) written: Version,
    /// Only without [`RecordWithChange`](crate::Rule::RecordWithChange): changed, not recorded yet.
    pub(crate) unrecorded: bool,
    pub(crate) version: Version,
    pub(crate) published_version: Version,
    pub(crate) published_seq: u8,
    /// The stream's last sequence, as far as this key can tell: only its order matters.
    pub(crate) last_seq: u8,
    /// By how much the durable consumer's place lies beyond the stream's end.
    pub(crate) beyond: u8,
    pub(crate) message: Option<Message>,
    /// The version of an abandoned publish that is still in transit; 0 if there is none.
    pub(crate) late: Version,
    pub(crate) applied: Version,
    /// The highest version ever applied: what `applied` may not fall below.
    pub(crate) highest: Version,
    pub(crate) readable: u8,
    pub(crate) parked: Parked,
}

/// What the owner says of a key in a version: odd versions create it, even ones delete it.
pub(crate) const fn state_at(version: Version) -> u8 {
    if version % 2 == 1 { version } else { 0 }
}

/// How far a relay is with one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Round {
    #[default]
    Idle,
    Read(Version),
    /// It knows that the stream holds this, and has not marked it yet.
    Published {
        version: Version,
        seq: u8,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Relay {
    pub(crate) rounds: [Round; MANY],
    /// It must look at the stream before it reads rows.
    pub(crate) disconnected: bool,
}

/// What a replica has to do for a key that is not in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) dirty: bool,
    /// Whether it holds the acknowledgement of the message that stands in the stream. One of a
    /// message that was replaced has no effect, and is not remembered.
    pub(crate) token: bool,
    pub(crate) floor: Version,
    pub(crate) unsure: bool,
    /// The owner has had time: the answer is not stale.
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

/// What becomes of a run.
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

/// How far a replica's batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    #[default]
    Idle,
    Asked,
    /// Only without [`OneSnapshot`](crate::Rule::OneSnapshot): the state is read, its version not.
    HalfRead,
    Answered,
    /// Only without [`OneTransaction`](crate::Rule::OneTransaction): the guard is committed, the
    /// service's own tables are not.
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
    /// Puts a message into the stream; the one that it replaces is gone, also for those who hold it.
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

    /// Brings states that differ in nothing that matters to one form.
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

    /// Of sequences only the order matters. There is room below the lowest, to go back to.
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
