//! The rules of the protocol, and the code that keeps each.

use Rule::*;

const CHANGE_LOG: &str = "crates/publisher/src/change_log.rs";
const OUTBOX: &str = "crates/publisher/src/change_log/outbox.rs";
const REPAIR: &str = "crates/publisher/src/change_log/repair.rs";
const LOOK: &str = "crates/publisher/src/relay/look.rs";
const SYNC_API: &str = "crates/publisher/src/sync_api.rs";
const INTAKE: &str = "crates/subscriber-kit/src/intake.rs";
const WORK_QUEUE: &str = "crates/subscriber-kit/src/work/queue.rs";
const OUTCOME: &str = "crates/subscriber-kit/src/work/outcome.rs";
const APPLY: &str = "crates/subscriber-kit/src/read_model/guard.rs";
const SETTLE: &str = "crates/subscriber-kit/src/work/settle.rs";
const DEAD_LETTER: &str = "crates/subscriber-kit/src/read_model/dead_letter.rs";
const REENTRY: &str = "crates/subscriber-kit/src/work/reentry.rs";

/// A rule that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A version is recorded in the transaction that makes the change:
    /// `crates/publisher/src/change_log.rs`, `ChangeLog::record`.
    RecordWithChange,
    /// What a relay published is recorded by stream sequence, never by version:
    /// `crates/publisher/src/change_log/outbox.rs`, `ChangeLog::mark`.
    MarkBySequence,
    /// On every connection, what changed lately is published again:
    /// `crates/publisher/src/relay/look.rs`, `Relay::make_good`.
    PublishAgain,
    /// It is made pending at the stream's last sequence, so that acknowledgements from before no
    /// longer count: `crates/publisher/src/change_log/repair.rs`, `ChangeLog::unpublish`.
    AtLastSequence,
    /// That goes for rows of which nothing was recorded yet, too: a relay that died may have
    /// published an old version over a newer one that is still to be recorded:
    /// `crates/publisher/src/change_log/repair.rs`, `ChangeLog::unpublish`.
    UnmarkedToo,
    /// What stands in the stream and was not recorded is read and recorded:
    /// `crates/publisher/src/relay/look.rs`, `Relay::read_on`.
    ReadOn,
    /// State and version are read in one snapshot:
    /// `crates/publisher/src/sync_api.rs`, `Api::snapshot`.
    OneSnapshot,
    /// A durable consumer whose place lies beyond the stream's end is put back, and what was published there
    /// meanwhile counts as new. Not built yet.
    PlaceInStream,
    /// No message is skipped because of the version that it names:
    /// `crates/subscriber-kit/src/intake.rs`, `Intake::take`.
    NoSkip,
    /// A message marks its key dirty, however malformed it is:
    /// `crates/subscriber-kit/src/intake.rs`, `Intake::hand_over`.
    MalformedCounts,
    /// A message that comes during a run leads to one more run:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::push`.
    DirtyDuringRun,
    /// A run carries only the acknowledgements that came before it began:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::begin`.
    TokensBeforeRun,
    /// An answer older than the notification is not the last word:
    /// `crates/subscriber-kit/src/work/outcome.rs`, `judge`.
    Floor,
    /// It stays the floor until it is reached, also while the key waits to be looked at again:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::again`.
    FloorStays,
    /// A message that names no version gets a second look, later:
    /// `crates/subscriber-kit/src/work/outcome.rs`, `judge`.
    SecondLook,
    /// A key that the owner does not know is not taken for deleted:
    /// `crates/subscriber-kit/src/work/outcome.rs`, `judge`.
    UnknownIsNotDeleted,
    /// Newer wins, and the database decides it:
    /// `crates/subscriber-kit/src/read_model/guard.rs`, `Applier::new`.
    Guard,
    /// The guard's write and the service's own are one transaction:
    /// `crates/subscriber-kit/src/read_model/guard.rs`, `Applier::one_transaction`.
    OneTransaction,
    /// A batch that is refused is split until the refused key is alone:
    /// `crates/subscriber-kit/src/read_model/guard.rs`, `Applier::apply`.
    SplitRefused,
    /// A parked key is closed only by its floor's version or a later one:
    /// `crates/subscriber-kit/src/read_model/guard.rs`, `Applier::new`.
    CloseAtFloor,
    /// Acknowledgements go out after the commit:
    /// `crates/subscriber-kit/src/work/settle.rs`, `Settling::settle`.
    AckAfterCommit,
    /// A key that fails is in the table before its message is acknowledged:
    /// `crates/subscriber-kit/src/work/settle.rs`, `Settling::settle`.
    ParkBeforeAck,
    /// A key that another replica has applied meanwhile is not made a dead letter:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    ParkUnlessOvertaken,
    /// Of two who park a key, the higher floor stays:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    HigherFloorStays,
    /// That a version is refused does not end the tries of a key that is parked for a later one:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    OlderRefusalYields,
    /// Parked keys come back to the work queue:
    /// `crates/subscriber-kit/src/work/reentry.rs`, `round`.
    Reentry,
    /// What was lost for good is found by comparing versions with the owner's. Not built yet.
    Resync,
}

const _: () = assert!(Rule::ALL.len() == Resync as usize + 1, "a rule is missing in `ALL`");

/// Where a rule is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The file, from the root of the workspace.
    pub path: &'static str,
    /// The type that the function belongs to, if it does.
    pub owner: Option<&'static str>,
    /// The function.
    pub function: &'static str,
}

impl Rule {
    /// Every rule, in the order in which a change meets them.
    pub const ALL: [Self; 27] = [
        RecordWithChange,
        MarkBySequence,
        PublishAgain,
        AtLastSequence,
        UnmarkedToo,
        ReadOn,
        OneSnapshot,
        PlaceInStream,
        NoSkip,
        MalformedCounts,
        DirtyDuringRun,
        TokensBeforeRun,
        Floor,
        FloorStays,
        SecondLook,
        UnknownIsNotDeleted,
        Guard,
        OneTransaction,
        SplitRefused,
        CloseAtFloor,
        AckAfterCommit,
        ParkBeforeAck,
        ParkUnlessOvertaken,
        HigherFloorStays,
        OlderRefusalYields,
        Reentry,
        Resync,
    ];

    /// The code that keeps it; `None` while there is none.
    pub fn code(self) -> Option<Code> {
        let (path, owner, function) = match self {
            RecordWithChange => (CHANGE_LOG, Some("ChangeLog"), "record"),
            MarkBySequence => (OUTBOX, Some("ChangeLog"), "mark"),
            PublishAgain => (LOOK, Some("Relay"), "make_good"),
            AtLastSequence | UnmarkedToo => (REPAIR, Some("ChangeLog"), "unpublish"),
            ReadOn => (LOOK, Some("Relay"), "read_on"),
            OneSnapshot => (SYNC_API, Some("Api"), "snapshot"),
            NoSkip => (INTAKE, Some("Intake"), "take"),
            MalformedCounts => (INTAKE, Some("Intake"), "hand_over"),
            DirtyDuringRun => (WORK_QUEUE, Some("WorkQueue"), "push"),
            TokensBeforeRun => (WORK_QUEUE, Some("WorkQueue"), "begin"),
            FloorStays => (WORK_QUEUE, Some("WorkQueue"), "again"),
            Floor | SecondLook | UnknownIsNotDeleted => (OUTCOME, None, "judge"),
            OneTransaction => (APPLY, Some("Applier"), "one_transaction"),
            SplitRefused => (APPLY, Some("Applier"), "apply"),
            Guard | CloseAtFloor => (APPLY, Some("Applier"), "new"),
            AckAfterCommit | ParkBeforeAck => (SETTLE, Some("Settling"), "settle"),
            ParkUnlessOvertaken | HigherFloorStays | OlderRefusalYields => {
                (DEAD_LETTER, Some("DeadLetters"), "park")
            }
            Reentry => (REENTRY, None, "round"),
            PlaceInStream | Resync => return None,
        };
        Some(Code { path, owner, function })
    }
}
