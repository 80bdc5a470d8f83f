//! The scenarios, which limit how much may happen, so that the number of states is finite.

use crate::rule::Rule;

/// How often each kind of event may still happen. All but edits are faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// Changes by the owner, over all keys.
    pub edits: u8,
    /// Crashes of relays.
    pub relay_crashes: u8,
    /// Crashes of replicas.
    pub crashes: u8,
    /// Callbacks answered from the past.
    pub stale: u8,
    /// Publishes that a relay abandons and that still reach the broker later.
    pub late: u8,
    /// Messages that the broker acknowledged and lost when it went down, so that everyone reconnects.
    pub losses: u8,
    /// Messages lost for good, unnoticed.
    pub forgotten: u8,
    /// Messages by someone else that name no version and replace a true one.
    pub foreign: u8,
    /// Notifications of version 1 that someone publishes again, over whatever is there.
    pub echoes: u8,
    /// Messages that are redelivered although someone is still working on them.
    pub timeouts: u8,
    /// Batches that fail until they are parked.
    pub failures: u8,
    /// How often the owner goes back to the state before, when everything is handled.
    pub restores: u8,
}

/// Who takes part, and what may happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scenario {
    /// What it is about.
    pub name: &'static str,
    /// Keys, 1 or 2.
    pub keys: usize,
    /// Relays, 1 or 2.
    pub relays: usize,
    /// Replicas, 1 or 2.
    pub replicas: usize,
    /// How much may happen.
    pub left: Left,
    /// A key and a version that the service's `apply` refuses.
    pub refused: Option<(usize, u8)>,
    /// Whether relays are blind: they do not check the stream, as other implementations may not. A subscriber must not
    /// depend on it.
    pub blind: bool,
    /// Whether the durable consumer keeps its position when the broker loses messages, so that it is beyond the
    /// stream's end.
    pub keeps_place: bool,
    /// Whether there is a comparison with the owner.
    pub resync: bool,
    /// The rule that is removed, if any.
    pub without: Option<Rule>,
}

const NONE: Left = Left {
    edits: 0,
    relay_crashes: 0,
    crashes: 0,
    stale: 0,
    late: 0,
    losses: 0,
    forgotten: 0,
    foreign: 0,
    echoes: 0,
    timeouts: 0,
    failures: 0,
    restores: 0,
};

const fn scenario(name: &'static str, counts: [usize; 3], left: Left) -> Scenario {
    let [keys, relays, replicas] = counts;
    Scenario {
        name,
        keys,
        relays,
        replicas,
        left,
        refused: None,
        blind: false,
        keeps_place: false,
        resync: false,
        without: None,
    }
}

/// A scenario with blind relays.
const fn blind(name: &'static str, counts: [usize; 3], left: Left) -> Scenario {
    Scenario { blind: true, ..scenario(name, counts, left) }
}

/// The scenarios in which the whole protocol must hold.
pub const WHOLE: [Scenario; 23] = [
    blind("created, deleted, created", [1, 2, 2], Left { edits: 3, crashes: 1, ..NONE }),
    scenario(
        "messages are redelivered",
        [1, 1, 2],
        Left { edits: 3, crashes: 2, timeouts: 2, ..NONE },
    ),
    blind(
        "relays and replicas die",
        [1, 2, 2],
        Left { edits: 2, stale: 1, relay_crashes: 1, crashes: 1, ..NONE },
    ),
    scenario("answers are stale", [1, 1, 2], Left { edits: 3, stale: 3, crashes: 1, ..NONE }),
    scenario("a publish arrives late", [1, 2, 1], Left { edits: 3, stale: 1, late: 1, ..NONE }),
    scenario(
        "a publish arrives late, two replicas",
        [1, 2, 2],
        Left { edits: 2, stale: 1, late: 1, ..NONE },
    ),
    scenario(
        "a publish arrives late, relays die",
        [1, 2, 1],
        Left { edits: 2, stale: 1, late: 1, relay_crashes: 1, ..NONE },
    ),
    scenario(
        "a publish arrives late, the broker loses messages",
        [1, 2, 1],
        Left { edits: 2, stale: 1, late: 1, losses: 1, ..NONE },
    ),
    blind("the broker loses messages", [1, 2, 2], Left { edits: 2, stale: 1, losses: 1, ..NONE }),
    blind(
        "the broker loses messages twice",
        [1, 2, 1],
        Left { edits: 2, stale: 1, losses: 2, relay_crashes: 1, crashes: 1, ..NONE },
    ),
    Scenario {
        keeps_place: true,
        ..scenario(
            "the broker loses messages, and the consumer keeps its position",
            [1, 1, 2],
            Left { edits: 3, losses: 2, relay_crashes: 1, crashes: 1, ..NONE },
        )
    },
    blind(
        "someone else publishes no version",
        [1, 1, 2],
        Left { edits: 3, stale: 2, foreign: 1, crashes: 1, ..NONE },
    ),
    scenario(
        "someone else publishes no version, relays check the stream",
        [1, 2, 1],
        Left { edits: 2, stale: 1, foreign: 1, relay_crashes: 1, ..NONE },
    ),
    blind(
        "someone else publishes an old version",
        [1, 2, 2],
        Left { edits: 2, echoes: 1, crashes: 1, ..NONE },
    ),
    scenario(
        "someone else publishes an old version, relays check the stream",
        [1, 2, 2],
        Left { edits: 2, echoes: 1, crashes: 1, ..NONE },
    ),
    scenario(
        "keys are parked",
        [1, 1, 2],
        Left { edits: 3, failures: 2, stale: 2, crashes: 2, ..NONE },
    ),
    scenario("two keys in a batch", [2, 1, 2], Left { edits: 3, stale: 1, crashes: 1, ..NONE }),
    Scenario {
        refused: Some((1, 1)),
        ..scenario(
            "a key of a batch is refused",
            [2, 1, 2],
            Left { edits: 3, failures: 1, crashes: 1, ..NONE },
        )
    },
    Scenario {
        refused: Some((0, 1)),
        ..blind(
            "a key is refused, and overtaken",
            [1, 2, 2],
            Left { edits: 2, stale: 1, crashes: 2, ..NONE },
        )
    },
    Scenario {
        resync: true,
        ..scenario(
            "messages are lost for good",
            [2, 1, 2],
            Left { edits: 2, forgotten: 2, stale: 1, crashes: 1, ..NONE },
        )
    },
    Scenario {
        resync: true,
        refused: Some((0, 1)),
        ..scenario(
            "the next version of a refused key is lost for good",
            [1, 1, 2],
            Left { edits: 3, forgotten: 2, stale: 1, crashes: 1, ..NONE },
        )
    },
    Scenario {
        resync: true,
        ..blind(
            "the owner goes back to an older state",
            [1, 1, 2],
            Left { edits: 3, restores: 2, stale: 1, crashes: 1, ..NONE },
        )
    },
    Scenario {
        resync: true,
        ..blind(
            "the owner goes back to an older state, and messages are lost for good",
            [1, 2, 1],
            Left { edits: 3, restores: 2, forgotten: 1, relay_crashes: 1, ..NONE },
        )
    },
];

/// The smallest scenario in which a rule is needed.
pub fn without(rule: Rule) -> Scenario {
    use Rule::*;
    let small = |left| scenario("one of each", [1, 1, 1], left);
    let two_relays = |left| scenario("two relays", [1, 2, 1], left);
    let two_replicas = |left| scenario("two replicas", [1, 1, 2], left);
    let two_keys = |left| scenario("two keys", [2, 1, 1], left);
    let least = match rule {
        RecordWithChange => small(Left { edits: 1, relay_crashes: 1, ..NONE }),
        PublishAgain => small(Left { edits: 1, losses: 1, ..NONE }),
        MarkBySequence => two_relays(Left { edits: 2, stale: 1, ..NONE }),
        AtLastSequence | UnmarkedToo => {
            two_relays(Left { edits: 2, stale: 1, relay_crashes: 1, ..NONE })
        }
        ReadOn => small(Left { edits: 2, stale: 1, late: 1, ..NONE }),
        OneSnapshot | DirtyDuringRun => small(Left { edits: 2, ..NONE }),
        PlaceInStream => {
            Scenario { keeps_place: true, ..small(Left { edits: 2, losses: 1, ..NONE }) }
        }
        NoSkip => small(Left { edits: 2, echoes: 1, ..NONE }),
        MalformedCounts => small(Left { edits: 1, foreign: 1, ..NONE }),
        TokensBeforeRun => small(Left { edits: 2, crashes: 1, ..NONE }),
        Floor => small(Left { edits: 2, stale: 1, ..NONE }),
        FloorStays => small(Left { edits: 2, stale: 2, ..NONE }),
        SecondLook => small(Left { edits: 2, stale: 1, foreign: 1, ..NONE }),
        UnknownIsNotDeleted => small(Left { edits: 1, stale: 1, ..NONE }),
        Guard => two_replicas(Left { edits: 2, ..NONE }),
        OneTransaction => small(Left { edits: 1, ..NONE }),
        SplitRefused => Scenario { refused: Some((1, 1)), ..two_keys(Left { edits: 2, ..NONE }) },
        CloseAtFloor => small(Left { edits: 2, failures: 1, stale: 1, crashes: 1, ..NONE }),
        AckAfterCommit => small(Left { edits: 1, crashes: 1, ..NONE }),
        ParkBeforeAck | Reentry => small(Left { edits: 1, failures: 1, ..NONE }),
        HigherFloorStays => two_replicas(Left { edits: 2, failures: 2, stale: 1, ..NONE }),
        ParkUnlessOvertaken => {
            Scenario { refused: Some((0, 1)), ..two_replicas(Left { edits: 2, ..NONE }) }
        }
        OlderRefusalYields => {
            let left = Left { edits: 2, failures: 1, ..NONE };
            Scenario { refused: Some((0, 1)), ..two_replicas(left) }
        }
        Renew => Scenario { resync: true, ..small(Left { edits: 1, restores: 1, ..NONE }) },
        Resync => Scenario { resync: true, ..small(Left { edits: 1, forgotten: 1, ..NONE }) },
    };
    // Relays that check the stream repair what these rules prevent. Without the first rule, they would read the same
    // message forever.
    let blind = matches!(
        rule,
        MarkBySequence | AtLastSequence | UnmarkedToo | NoSkip | MalformedCounts | SecondLook
    );
    Scenario { blind, without: Some(rule), ..least }
}
