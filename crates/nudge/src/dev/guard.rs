//! The guard of `nudge dev` and `nudge chaos`. It holds the data directory's lock until it is done, so that
//! a new start does not meet the old processes.

use std::path::Path;

use nudge_testbed::program::Guard;

use super::data_dir::DataDir;
use crate::failure::Failure;

/// The hidden verb that runs it.
pub(crate) const VERB: &str = "dev-guard";

/// Starts the guard: this program, `exe`, once more.
pub(crate) fn start(exe: &Path, data: &DataDir) -> Result<Guard, Failure> {
    let started = data.share_lock().and_then(|lock| Guard::start(exe, VERB, lock));
    started.map_err(|error| Failure::failed(format!("cannot start {}: {error}", exe.display())))
}
