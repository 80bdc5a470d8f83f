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
const RESYNC: &str = "crates/subscriber-kit/src/resync/repair.rs";

/// A rule that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A version is recorded in the transaction that makes the change:
    /// `crates/publisher/src/change_log.rs`, `ChangeLog::record`.
    RecordWithChange,
    /// What a relay published is recorded by stream sequence, never by version:
    /// `crates/publisher/src/change_log/outbox.rs`, `ChangeLog::mark`.
    MarkBySequence,
    /// On every connection, recent changes are published again:
    /// `crates/publisher/src/relay/look.rs`, `Relay::make_good`.
    PublishAgain,
    /// It becomes pending at the stream's last sequence, so that earlier acknowledgements no longer count:
    /// `crates/publisher/src/change_log/repair.rs`, `ChangeLog::unpublish`.
    AtLastSequence,
    /// The same goes for unmarked rows: a relay that died may have published an old version over a newer one that is
    /// not marked yet:
    /// `crates/publisher/src/change_log/repair.rs`, `ChangeLog::unpublish`.
    UnmarkedToo,
    /// Unmarked messages in the stream are read and marked:
    /// `crates/publisher/src/relay/look.rs`, `Relay::read_on`.
    ReadOn,
    /// State and version are read in one snapshot:
    /// `crates/publisher/src/sync_api.rs`, `Api::snapshot`.
    OneSnapshot,
    /// A durable consumer beyond the stream's end is reset, and whatever was published there in the meantime counts as
    /// new. Not built yet.
    PlaceInStream,
    /// No message is skipped because of the version that it names:
    /// `crates/subscriber-kit/src/intake.rs`, `Intake::take`.
    NoSkip,
    /// A message marks its key dirty, however malformed it is:
    /// `crates/subscriber-kit/src/intake.rs`, `Intake::hand_over`.
    MalformedCounts,
    /// A message that arrives during a run leads to one more run:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::push`.
    DirtyDuringRun,
    /// A run carries only the acknowledgements that arrived before it started:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::begin`.
    TokensBeforeRun,
    /// An answer older than the notification is not final:
    /// `crates/subscriber-kit/src/work/outcome.rs`, `judge`.
    Floor,
    /// The floor stays until it is reached, also while the key waits to be asked for again:
    /// `crates/subscriber-kit/src/work/queue.rs`, `WorkQueue::again`.
    FloorStays,
    /// After a message that names no version, the owner is asked a second time, later:
    /// `crates/subscriber-kit/src/work/outcome.rs`, `judge`.
    SecondLook,
    /// A key that the owner does not know does not count as deleted:
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
    /// Acknowledgements are sent after the commit:
    /// `crates/subscriber-kit/src/work/settle.rs`, `Settling::settle`.
    AckAfterCommit,
    /// A key that fails is in the table before its message is acknowledged:
    /// `crates/subscriber-kit/src/work/settle.rs`, `Settling::settle`.
    ParkBeforeAck,
    /// A key that another replica has applied in the meantime is not parked:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    ParkUnlessOvertaken,
    /// If two replicas park a key, the higher floor stays:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    HigherFloorStays,
    /// The refusal of a version does not end the retries of a key that is parked for a later one:
    /// `crates/subscriber-kit/src/read_model/dead_letter.rs`, `DeadLetters::park`.
    OlderRefusalYields,
    /// Parked keys come back to the work queue:
    /// `crates/subscriber-kit/src/work/reentry.rs`, `round`.
    Reentry,
    /// Changes that were lost for good are found by comparing versions with the owner's:
    /// `crates/subscriber-kit/src/resync/repair.rs`, `Resync::repair`.
    Resync,
    /// An owner that went back to an older state is told of the newer version, and gives a fresh one above it, so that
    /// nothing has to pass the guard:
    /// `crates/subscriber-kit/src/resync/repair.rs`, `Resync::renew`.
    Renew,
}

const _: () = assert!(Rule::ALL.len() == Renew as usize + 1, "a rule is missing in `ALL`");

/// The code that keeps a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The file, from the root of the workspace.
    pub path: &'static str,
    /// The type that the function belongs to, if any.
    pub owner: Option<&'static str>,
    /// The function.
    pub function: &'static str,
}

impl Rule {
    /// Every rule, in the order in which a change encounters them.
    pub const ALL: [Self; 28] = [
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
        Renew,
    ];

    /// The code that keeps it; `None` if there is none yet.
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
            Rule::Resync => (RESYNC, Some("Resync"), "repair"),
            Renew => (RESYNC, Some("Resync"), "renew"),
            PlaceInStream => return None,
        };
        Some(Code { path, owner, function })
    }
}
