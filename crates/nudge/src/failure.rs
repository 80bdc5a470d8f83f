//! Why a command failed, and the exit status that says so.

use std::process::ExitCode;

/// A failure, as one line for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The request could not be carried out.
    #[error("{0}")]
    Failed(String),
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
    /// It did not happen in the given time.
    #[error("{0}")]
    TimedOut(String),
    /// The test itself could not be carried out.
    #[error("{0}")]
    NotTested(String),
    /// The reader of our output has closed it (`nudge watch | head -1`). Nothing failed.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// The request could not be carried out.
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
