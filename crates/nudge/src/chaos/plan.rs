//! What a run does and when: everything that is decided at random before it begins.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use nudge_testbed::Way;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

mod cast;
mod databases;
mod generate;
mod place;
#[cfg(test)]
mod tests;

pub(super) use cast::{Cast, Who};
pub(super) use databases::Databases;
pub(super) use place::{Place, Target};

/// Shortest run, in milliseconds: there must be room for faults, and for quiet at both ends.
pub(super) const MIN_MILLIS: u64 = 6_000;
/// Longest run: one day.
pub(super) const MAX_MILLIS: u64 = 24 * 60 * 60 * 1_000;
/// Most faults that a plan may hold.
const MAX_FAULTS: usize = 200_000;
/// Most replicas of each service: they share the machine, and one database.
pub(super) const MAX_REPLICAS: u64 = 4;
/// Most programs of others.
pub(super) const MAX_GUESTS: usize = 4;
/// Most stores that a plan may edit.
const MAX_STORES: u64 = 10_000;
/// Largest plan that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Changes with the meaning of a plan, so that an old one is refused and not misread.
const FORMAT: u32 = 1;

/// A command line as its words.
pub(super) type Words = Vec<String>;

/// A plan. Offsets count from the first edit.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub(super) format: u32,
    /// Decides the edits, and chance within a fault.
    pub(super) seed: u64,
    /// How long edits and faults go on.
    pub(super) millis: u64,
    /// How many there are of each service.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) replicas: u64,
    /// Programs of others that take part, by their names, each with the command that starts it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) with: BTreeMap<String, Words>,
    /// Stores that are edited.
    pub(super) stores: u64,
    /// From one edit to the next.
    pub(super) edit_every_millis: u64,
    pub(super) faults: Vec<Fault>,
}

/// One thing that goes wrong for a while.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) at_millis: u64,
    pub(super) for_millis: u64,
    pub(super) kind: Kind,
    pub(super) on: Target,
    /// To which replica of it, or on whose line.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) replica: u64,
    /// For [`Kind::Stall`]: the direction; without one, both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) way: Option<Way>,
    /// For [`Kind::Latency`]: by how much each piece is late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) late_millis: Option<u64>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// What is sent arrives late.
    Latency,
    /// What is sent does not arrive until it is over.
    Stall,
    /// Connections are reset, again and again.
    Reset,
    /// Connections end within an answer.
    Cut,
    /// No connection can be made, and those that stood are gone.
    Refuse,
    /// Notifications are held back and released in another order.
    Reorder,
    /// Notifications come twice.
    Duplicate,
    /// Notifications get lost on their way.
    Drop,
    /// SIGKILL, and a new start at its end.
    Kill,
    /// SIGSTOP, and SIGCONT at its end.
    Freeze,
    /// NATS is ended at its end, and comes back with its store directory as it was at the start.
    NatsRollback,
    /// The streams are deleted.
    StreamDelete,
    /// A subscriber's durable consumers are deleted.
    ConsumerDelete,
    /// A subscriber cannot write to its files.
    DiskFull,
}

impl Kind {
    pub(super) const ALL: [Self; 14] = [
        Self::Latency,
        Self::Stall,
        Self::Reset,
        Self::Cut,
        Self::Refuse,
        Self::Reorder,
        Self::Duplicate,
        Self::Drop,
        Self::Kill,
        Self::Freeze,
        Self::NatsRollback,
        Self::StreamDelete,
        Self::ConsumerDelete,
        Self::DiskFull,
    ];

    /// What it can happen to.
    pub(super) fn targets(self, cast: &Cast) -> Vec<Target> {
        use Target::{Database, Nats, Program};
        match self {
            Self::Latency | Self::Stall | Self::Reset | Self::Cut | Self::Refuse => {
                cast.lines().collect()
            }
            Self::Reorder | Self::Duplicate | Self::Drop => cast.broker_lines().collect(),
            Self::Kill | Self::Freeze => {
                [Nats].into_iter().chain(cast.everyone().map(Program)).chain([Database]).collect()
            }
            Self::NatsRollback | Self::StreamDelete => vec![Nats],
            Self::ConsumerDelete | Self::DiskFull => cast.subscribers().map(Program).collect(),
        }
    }

    /// How many of a target it can happen to, one at a time. What replicas share there is one of.
    pub(super) const fn choices(self, on: Target, replicas: u64) -> u64 {
        match (self, on) {
            (Self::ConsumerDelete, _) | (_, Target::Nats | Target::Database) => 1,
            _ => replicas,
        }
    }

    /// Faults of one group do not happen in the same place at the same time.
    const fn group(self) -> u8 {
        match self {
            Self::Latency => 0,
            Self::Stall => 1,
            Self::Reset | Self::Cut | Self::Refuse => 2,
            Self::Reorder | Self::Duplicate | Self::Drop => 3,
            _ => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.place())?;
        if let Some(way) = self.way {
            write!(f, " ({})", if way == Way::There { "there" } else { "back" })?;
        }
        self.late_millis.map_or(Ok(()), |late| write!(f, " ({late} ms)"))
    }
}

fn one() -> u64 {
    1
}

/// What there is one of is not written down.
fn is_one(number: &u64) -> bool {
    *number == 1
}

impl Plan {
    /// Edits that it makes.
    pub(super) fn edits(&self) -> u64 {
        self.millis / self.edit_every_millis
    }

    /// Who takes part. [Checked](Self::check), it always says.
    pub(super) fn cast(&self) -> Cast {
        Cast::with(&self.with).unwrap_or_default()
    }

    /// As it is written to a file.
    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a plan always serializes");
        text.push('\n');
        text
    }

    /// Reads a plan, which may be written by hand.
    pub(super) fn from_json(text: &str) -> Result<Self, String> {
        let plan: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        plan.check()?;
        Ok(plan)
    }

    /// Reads a plan's file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let failed =
            |why: String| Failure::failed(format!("cannot read {}: {why}", path.display()));
        let length = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if length > MAX_FILE_BYTES {
            return Err(failed("it is too large for a plan".to_owned()));
        }
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::from_json(&text).map_err(failed)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("its format is {}, and this program knows {FORMAT}", self.format));
        }
        if !(MIN_MILLIS..=MAX_MILLIS).contains(&self.millis) {
            return Err(format!("millis must be from {MIN_MILLIS} to {MAX_MILLIS}"));
        }
        if !(1..=MAX_STORES).contains(&self.stores) || self.edit_every_millis == 0 {
            return Err(format!("stores must be from 1 to {MAX_STORES}, edit_every_millis not 0"));
        }
        if self.faults.len() > MAX_FAULTS {
            return Err(format!("it has more than {MAX_FAULTS} faults"));
        }
        if !(1..=MAX_REPLICAS).contains(&self.replicas) {
            return Err(format!("replicas must be from 1 to {MAX_REPLICAS}"));
        }
        if self.with.len() > MAX_GUESTS || self.with.values().any(Vec::is_empty) {
            return Err(format!(
                "at most {MAX_GUESTS} programs can be with it, each with a command"
            ));
        }
        let cast = Cast::with(&self.with)?;
        for fault in &self.faults {
            if !(1..=fault.kind.choices(fault.on, self.replicas)).contains(&fault.replica) {
                return Err(format!("there is no {}", fault.place()));
            }
            if !fault.kind.targets(&cast).contains(&fault.on) {
                return Err(format!("{} cannot happen to {}", fault.kind, fault.on));
            }
            let end = fault.at_millis.checked_add(fault.for_millis);
            if end.is_none_or(|end| end > self.millis) {
                return Err(format!("{fault} goes on after the end"));
            }
        }
        for (index, fault) in self.faults.iter().enumerate() {
            let later = self.faults[index + 1..].iter().find(|later| fault.excludes(later, 0));
            if let Some(later) = later {
                return Err(format!("{fault} and {later} happen at the same time"));
            }
        }
        Ok(())
    }
}

impl Fault {
    /// Where it happens.
    pub(super) fn place(&self) -> Place {
        Place { on: self.on, replica: self.replica }
    }

    /// Whether the two cannot both happen, when there are to be `apart_millis` between them.
    fn excludes(&self, other: &Self, apart_millis: u64) -> bool {
        let same = self.kind.group() == other.kind.group()
            && (self.place() == other.place() || self.needs_nats() && other.needs_nats());
        let apart = |a: &Self, b: &Self| a.at_millis + a.for_millis + apart_millis <= b.at_millis;
        same && !apart(self, other) && !apart(other, self)
    }

    /// Whether it is done to NATS or through it.
    fn needs_nats(&self) -> bool {
        self.on == Target::Nats || self.kind == Kind::ConsumerDelete
    }
}
