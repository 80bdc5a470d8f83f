//! The `main` of a service.

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError,
    args::{ServiceArgs, parse_from_or_exit},
    private,
    problem::chain,
    serve::stop_on_signal,
};

/// Runs a service until SIGINT or SIGTERM: reads the arguments, starts logging, calls `start`, and
/// awaits what that returned, which ends when everything has stopped. `PROGRAM openapi` prints
/// `document` instead, and needs no database for that. `words` are the program's name and its arguments.
///
/// A start that fails ends the program with one line and exit status 1. One that is told to stop just ends.
pub async fn run<A, S>(
    words: Vec<OsString>,
    document: impl FnOnce() -> String,
    common: impl FnOnce(&A) -> &ServiceArgs,
    start: impl AsyncFnOnce(&A, CancellationToken) -> Result<S, BoxError>,
) -> ExitCode
where
    A: Parser,
    S: Future<Output = ()>,
{
    if words.get(1).is_some_and(|word| word == "openapi") {
        print!("{}", document());
        return ExitCode::SUCCESS;
    }
    let args: A = parse_from_or_exit(words);
    private::keep_new_files();
    common(&args).init_logs();
    let stop = stop_on_signal();
    let started = tokio::select! {
        started = start(&args, stop.clone()) => started,
        // A start may have to wait, for a database or for another program that migrates.
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
