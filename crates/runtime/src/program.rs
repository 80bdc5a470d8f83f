//! The `main` of a service.

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::{ArgMatches, Command, FromArgMatches};
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError,
    args::{ServiceArgs, matches_or_exit},
    files, private,
    problem::chain,
    serve::stop_on_signal,
    tls,
};

/// Runs a service until SIGINT or SIGTERM: reads the arguments, starts logging, calls `start`, and awaits the
/// future that it returns, which must end when everything has stopped. `PROGRAM openapi` prints `document`
/// instead, which needs no database. `words` are the program's name and its arguments; `command` accepts
/// those of [`ServiceArgs`] and possibly others.
///
/// If the start fails, the program prints one line and ends with exit status 1. A signal during the start ends it, too.
pub async fn run<S>(
    words: Vec<OsString>,
    command: Command,
    document: impl FnOnce() -> String,
    start: impl AsyncFnOnce(ArgMatches, CancellationToken) -> Result<S, BoxError>,
) -> ExitCode
where
    S: Future<Output = ()>,
{
    if words.get(1).is_some_and(|word| word == "openapi") {
        print!("{}", document());
        return ExitCode::SUCCESS;
    }
    let matches = matches_or_exit(command, words);
    private::keep_new_files();
    let args = ServiceArgs::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    args.init_logs();
    files::allow_many();
    tls::install();
    if let Err(error) = args.refuse_plain_text() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let stop = stop_on_signal();
    let started = tokio::select! {
        started = start(matches, stop.clone()) => started,
        // A start may have to wait for a database, or for another program that migrates it.
        () = stop.cancelled() => return ExitCode::SUCCESS,
    };
    match started {
        Ok(stopped) => {
            stopped.await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}
