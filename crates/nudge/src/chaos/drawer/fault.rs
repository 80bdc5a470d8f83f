//! What can be broken by hand: as arguments of `nudge break`, and as the body of a request.

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::act::MAX_SECONDS;

/// One thing to break.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Fault {
    /// Hold back a subscriber's notifications, and let them through in another order
    Hold(HoldArgs),
    /// Deliver some of a subscriber's notifications twice
    Duplicate(SomeArgs),
    /// Lose some of a subscriber's notifications
    Drop(SomeArgs),
    /// Delay the answers to a subscriber's callbacks
    Delay(DelayArgs),
    /// Fail every callback to an owner
    Owner(OwnerArgs),
    /// Kill a service, and start it again afterwards
    Kill(KillArgs),
    /// Edit a subscriber's copy of a store behind its back
    Edit(EditArgs),
}

/// Arguments of `nudge break hold`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldArgs {
    /// The subscriber
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// Let them through once this many are held back, at most 64
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) count: u64,
    /// Let them through after this time, and hold back no more; at most 120 s
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub(super) seconds: u64,
    /// Decides the order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// Arguments of `nudge break duplicate` and `nudge break drop`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SomeArgs {
    /// The subscriber
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// How many of a hundred
    #[arg(long, value_name = "P", default_value_t = 50)]
    pub(super) percent: u64,
    /// Instead, all of the next ones: this many, 0 for a share
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) next: u64,
    /// How long, at most 120 s
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub(super) seconds: u64,
    /// Decides which
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// Arguments of `nudge break delay`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DelayArgs {
    /// The subscriber
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// By how much, in milliseconds, at most 5000
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub(super) ms: u64,
    /// How long, at most 120 s
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub(super) seconds: u64,
}

/// Arguments of `nudge break owner`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerArgs {
    /// The owner
    #[arg(long, value_name = "NAME", default_value = "store-info")]
    pub(super) service: String,
    /// What callbacks get
    #[arg(long, value_enum, default_value_t = Answer::Unavailable)]
    pub(super) answer: Answer,
    /// How long, at most 120 s
    #[arg(long, value_name = "S", default_value_t = 20)]
    pub(super) seconds: u64,
}

/// What callbacks get from an owner that fails.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
pub(crate) enum Answer {
    /// The status 503
    #[serde(rename = "503")]
    #[value(name = "503")]
    Unavailable,
    /// No connection
    #[serde(rename = "refused")]
    #[value(name = "refused")]
    Refused,
}

/// Arguments of `nudge break kill`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KillArgs {
    /// The service
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// When it is started again, at most 120 s
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub(super) seconds: u64,
}

/// Arguments of `nudge break edit`.
#[derive(Args, Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EditArgs {
    /// The subscriber
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// The store
    #[arg(long, value_name = "ID")]
    pub(super) id: String,
    /// What its row becomes
    #[arg(long, value_enum, default_value_t = Row::Older)]
    pub(super) row: Row,
}

/// What a row becomes that is edited by hand.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// As if the last change had never arrived
    Older,
    /// As if the store had never arrived
    Missing,
    /// Of the right version, with another name
    Renamed,
}

impl Fault {
    /// The last segment of the path to which a request for it is sent.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Hold(_) => "hold",
            Self::Duplicate(_) => "duplicate",
            Self::Drop(_) => "drop",
            Self::Delay(_) => "delay",
            Self::Owner(_) => "owner",
            Self::Kill(_) => "kill",
            Self::Edit(_) => "edit",
        }
    }

    /// The body of that request.
    pub(crate) fn body(&self) -> Value {
        match self {
            Self::Hold(args) => json!(args),
            Self::Duplicate(args) | Self::Drop(args) => json!(args),
            Self::Delay(args) => json!(args),
            Self::Owner(args) => json!(args),
            Self::Kill(args) => json!(args),
            Self::Edit(args) => json!(args),
        }
    }

    /// How long it lasts, in seconds. A row that was edited is mended before, if the subscriber compares.
    pub(super) fn seconds(&self) -> u64 {
        match self {
            Self::Hold(HoldArgs { seconds, .. })
            | Self::Duplicate(SomeArgs { seconds, .. })
            | Self::Drop(SomeArgs { seconds, .. })
            | Self::Delay(DelayArgs { seconds, .. })
            | Self::Owner(OwnerArgs { seconds, .. })
            | Self::Kill(KillArgs { seconds, .. }) => *seconds,
            Self::Edit(_) => MAX_SECONDS,
        }
    }

    /// What is broken, for people.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Hold(HoldArgs { service, count, seed, .. }) => format!(
                "notifications to {service} are held back, up to {count} at a time, and let through in another order (seed {seed})"
            ),
            Self::Duplicate(some) => format!("{} arrive twice", some.words()),
            Self::Drop(some) => format!("{} are lost", some.words()),
            Self::Delay(DelayArgs { service, ms, .. }) => {
                format!("answers to callbacks of {service} come {ms} ms later")
            }
            Self::Owner(OwnerArgs { service, answer: Answer::Unavailable, .. }) => {
                format!("{service} answers every callback with 503")
            }
            Self::Owner(OwnerArgs { service, .. }) => {
                format!("{service} refuses the connection of every callback")
            }
            Self::Kill(KillArgs { service, .. }) => format!("{service} was killed"),
            Self::Edit(EditArgs { service, id, row }) => {
                let now = match row {
                    Row::Older => "as old as if the last change had never arrived",
                    Row::Missing => "gone",
                    Row::Renamed => "renamed",
                };
                format!("{service}'s copy of store {id} was edited by hand: it is {now}")
            }
        }
    }
}

impl SomeArgs {
    fn words(&self) -> String {
        let Self { service, percent, next, seed, .. } = self;
        match next {
            0 => format!("{percent} % of the notifications to {service} (seed {seed})"),
            next => format!("the next {next} notifications to {service}"),
        }
    }
}
