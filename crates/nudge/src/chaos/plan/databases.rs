//! Where the services keep their data, and which faults make sense with that.

use std::fmt;

use serde::Serialize;

use super::{Fault, Kind, Plan, Target};
use crate::failure::Failure;

/// Where the services keep their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(in crate::chaos) enum Databases {
    /// A file for each service.
    #[serde(rename = "SQLite")]
    Sqlite,
    /// A server for this run only.
    #[serde(rename = "PostgreSQL")]
    Postgres,
}

impl Databases {
    /// The kinds of faults that are possible.
    pub(in crate::chaos) fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.refusal(*kind, None).is_none())
    }

    /// Why a fault is not possible, if it is not.
    fn refusal(self, kind: Kind, on: Option<Target>) -> Option<&'static str> {
        match (self, kind, on) {
            (Self::Sqlite, _, Some(Target::Database)) => {
                Some("there is a database server only with --postgres-command")
            }
            (Self::Postgres, Kind::DiskFull, _) => {
                Some("with --postgres-command no service writes its own files")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Plan {
    /// Refuses a plan with a fault that is not possible with such databases.
    pub(in crate::chaos) fn check_on(&self, databases: Databases) -> Result<(), Failure> {
        let refusal =
            |fault: &Fault| Some((fault.clone(), databases.refusal(fault.kind, Some(fault.on))?));
        match self.faults.iter().find_map(refusal) {
            None => Ok(()),
            Some((fault, why)) => {
                let at = fault.at_millis;
                Err(Failure::failed(format!("the plan has {fault} at {at} ms, but {why}")))
            }
        }
    }
}
