//! What is done to break something, and within which bounds. Pure.

use std::{mem::discriminant, time::Duration};

use axum::http::StatusCode;
use nudge_runtime::{Problem, body};
use nudge_testbed::line::{Disturb, Hold, How, MAX_HELD, Sever, Which};
use serde::de::DeserializeOwned;

use super::fault::{
    Answer, DelayArgs, EditArgs, Fault, HoldArgs, KillArgs, OwnerArgs, Row, SomeArgs,
};
use crate::{chaos::plant, client::Service};

/// Longest time that anything stays broken, in seconds. Then it heals by itself.
pub(crate) const MAX_SECONDS: u64 = 120;
/// Most notifications that are held back at a time.
pub(super) const MAX_COUNT: u64 = MAX_HELD as u64;
/// Most notifications that are dropped or duplicated one after the other.
pub(super) const MAX_NEXT: u64 = 10_000;
/// Longest delay of a callback, in milliseconds: half of what a subscriber waits.
pub(super) const MAX_DELAY_MS: u64 = 5_000;
/// Highest seed: JavaScript counts no further.
pub(super) const MAX_SEED: u64 = (1 << 53) - 1;

/// What is done, with everything checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// On a subscriber's line to NATS.
    Disturb(Service, Disturb),
    /// On a subscriber's lines to owners.
    Delay(Service, Duration),
    /// On every line to an owner.
    Sever(Service, Sever),
    /// A service does not run.
    Down(Service),
    /// In a subscriber's database.
    Edit(Service, String, &'static [&'static str]),
}

impl Act {
    /// Whether it takes the place of another: two of a kind at one place would undo each other.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        let id = |act: &Self| match act {
            Self::Edit(_, id, _) => Some(id.clone()),
            _ => None,
        };
        discriminant(self) == discriminant(other)
            && (self.service(), id(self)) == (other.service(), id(other))
    }

    fn service(&self) -> Service {
        match *self {
            Self::Disturb(service, _)
            | Self::Delay(service, _)
            | Self::Sever(service, _)
            | Self::Down(service)
            | Self::Edit(service, ..) => service,
        }
    }
}

impl Fault {
    /// Reads the body of a request to break this kind of thing. Whatever is wrong is a 400 that names the field.
    pub(super) fn read(kind: &str, bytes: &[u8]) -> Result<Self, Problem> {
        fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
            body::parse(bytes).map_err(|problem| problem.with_status(StatusCode::BAD_REQUEST))
        }
        match kind {
            "hold" => parse(bytes).map(Self::Hold),
            "duplicate" => parse(bytes).map(Self::Duplicate),
            "drop" => parse(bytes).map(Self::Drop),
            "delay" => parse(bytes).map(Self::Delay),
            "owner" => parse(bytes).map(Self::Owner),
            "kill" => parse(bytes).map(Self::Kill),
            "edit" => parse(bytes).map(Self::Edit),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "what can be broken: hold, duplicate, drop, delay, owner, kill, edit",
            )),
        }
    }

    /// What is to be done, or a 400 that names the field.
    pub(super) fn act(&self) -> Result<Act, Problem> {
        within("seconds", self.seconds(), 1, MAX_SECONDS)?;
        let disturb = |name: &str, how, seed| {
            within("seed", seed, 0, MAX_SEED)?;
            Ok(Act::Disturb(subscriber(name)?, Disturb { how, seed }))
        };
        match self {
            Self::Hold(HoldArgs { service, count, seconds, seed }) => {
                let most = within("count", *count, 1, MAX_COUNT)? as usize;
                let longest = Duration::from_secs(*seconds);
                disturb(service, How::Reorder(Hold { most, longest }), *seed)
            }
            Self::Duplicate(some) => {
                disturb(&some.service, How::Duplicate(some.which()?), some.seed)
            }
            Self::Drop(some) => disturb(&some.service, How::Drop(some.which()?), some.seed),
            Self::Delay(DelayArgs { service, ms, .. }) => {
                let ms = within("ms", *ms, 1, MAX_DELAY_MS)?;
                Ok(Act::Delay(subscriber(service)?, Duration::from_millis(ms)))
            }
            Self::Owner(OwnerArgs { service, answer, .. }) => {
                let is_owner = |one: &Service| one.owns().is_some();
                let sever = match answer {
                    Answer::Unavailable => Sever::Unavailable,
                    Answer::Refused => Sever::Refuse,
                };
                Ok(Act::Sever(named(service, is_owner)?, sever))
            }
            Self::Kill(KillArgs { service, .. }) => named(service, |_| true).map(Act::Down),
            Self::Edit(EditArgs { service, id, row }) => {
                let edits = match row {
                    Row::Older => plant::OLDER,
                    Row::Missing => plant::MISSING,
                    Row::Renamed => plant::RENAMED,
                };
                Ok(Act::Edit(subscriber(service)?, id.clone(), edits))
            }
        }
    }
}

impl SomeArgs {
    fn which(&self) -> Result<Which, Problem> {
        within("percent", self.percent, 1, 100)?;
        Ok(match within("next", self.next, 0, MAX_NEXT)? {
            0 => Which::Percent(self.percent),
            next => Which::Next(next),
        })
    }
}

fn within(field: &str, number: u64, least: u64, most: u64) -> Result<u64, Problem> {
    match (least..=most).contains(&number) {
        true => Ok(number),
        false => Err(Problem::parameter(field, format!("must be from {least} to {most}"))),
    }
}

fn subscriber(name: &str) -> Result<Service, Problem> {
    named(name, |service| Service::SUBSCRIBERS.contains(service))
}

fn named(name: &str, fits: impl Fn(&Service) -> bool) -> Result<Service, Problem> {
    Service::named(name).filter(&fits).ok_or_else(|| {
        let names: Vec<_> = Service::ALL.into_iter().filter(fits).map(Service::name).collect();
        Problem::parameter("service", format!("must be one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests;
