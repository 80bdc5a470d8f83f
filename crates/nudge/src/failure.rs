//! Why a command failed, and the exit status that says so.

use std::process::ExitCode;

/// A failure, as one line for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// What was asked for could not be done.
    #[error("{0}")]
    Failed(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It did not happen in the time that was given.
    #[error("{0}")]
    TimedOut(String),
    /// What was to be tested could not be tested.
    #[error("{0}")]
    NotTested(String),
    /// Whoever read our output has enough of it (`nudge watch | head -1`). Nothing failed.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// What was asked for could not be done.
    pub(crate) fn failed(line: impl Into<String>) -> Self {
        Self::Failed(line.into())
    }

    /// Reports the failure on standard error. The codes are documented in `nudge --help`.
    pub(crate) fn report(&self) -> ExitCode {
        let code = match self {
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::TimedOut(_) => 3,
            Self::NotTested(_) => 4,
        };
        eprintln!("error: {self}");
        ExitCode::from(code)
    }
}
