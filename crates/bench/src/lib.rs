//! Measures Nudge beside what people would use instead: for `nudge bench`.
//!
//! Everything runs in this process, except NATS, PostgreSQL and what is measured of whole programs. Machines are noisy, so each figure stands beside others of
//! the same run: in each round everything is measured once, in turn, and what counts is the median of the rounds' ratios.
//!
//! ```text
//! World: NATS, an owner with its things ──┬── the kit's subscriber
//!                                         └── peers: by hand, fat events, bare hops, logical replication
//! figures ─► Report ─► table, JSON, SVG
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `figures` | what is measured, one module for each |
//! | `peers` | what people would use instead |
//! | `world` | the servers, the owner and its things |
//! | `subscriber` | the subscriber on the kit |
//! | `security` | tokens and certificates |
//! | `lag` | from the owner's commit to the readable row |
//! | `programs` | services of the demo as programs of their own |
//! | `usage` | what a program takes of the machine |
//! | [`report`] | the figures, and how they are shown |

mod figures;
mod lag;
mod peers;
mod programs;
pub mod report;
mod security;
mod subscriber;
mod thing;
mod usage;
mod world;

use std::{path::PathBuf, str::FromStr, time::Duration};

use nudge_runtime::{BoxError, database::Kind};

pub use figures::NAMES;
pub use report::Report;

/// Longest wait for anything, on slow machines too.
const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until there is something.
async fn found<T, F: Future<Output = Option<T>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> Result<T, BoxError> {
    let found = nudge_testbed::within(PATIENCE, look).await;
    found.ok_or_else(|| format!("never happened: {what}").into())
}

/// The value of a metric of an entity in the text of `/metrics`.
fn metric<T: FromStr>(text: &str, name: &str, entity: &str) -> Result<T, BoxError> {
    let series = format!("{name}{{entity=\"{entity}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    value.ok_or_else(|| format!("there is no metric {name}").into())
}

/// What to measure, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many times each figure is measured, 1 to 99.
    pub rounds: usize,
    /// The databases of owner and read models.
    pub kinds: Vec<Kind>,
    /// The names of the figures to measure, of [`NAMES`]; none means all.
    pub only: Vec<String>,
    /// With a tenth of the entities and changes: to see that everything works, not to compare.
    pub quick: bool,
    /// The program `nudge`, which also runs the demo's services.
    pub exe: PathBuf,
    /// Its verb for the [guard](nudge_testbed::program::Guard) of those.
    pub guard_verb: &'static str,
}

/// Measures. `progress` is told what is being done now, in a few words. What was measured before an error is in the report.
///
/// # Errors
/// If a server cannot be used, or what is measured never happens.
///
/// # Panics
/// If there is no PostgreSQL server and it cannot be installed, as tests do.
pub async fn run(options: &Options, progress: &dyn Fn(&str)) -> (Report, Result<(), BoxError>) {
    nudge_runtime::tls::install();
    let mut report = Report::of_this_machine(options.rounds, options.quick);
    for kind in &options.kinds {
        let measured = figures::all(*kind, options, progress, &mut report.figures).await;
        if measured.is_err() {
            return (report, measured);
        }
    }
    (report, Ok(()))
}
