//! A PostgreSQL server for this run only, which can be killed and frozen like every other program.

use std::time::{Duration, Instant};

use nudge_testbed::postgres::{END_PATIENCE, Runner};
use tokio::sync::{Mutex, Semaphore};

use super::plan::Kind;
use crate::{
    client::Service,
    dev::postgres::{self, Postgres},
    failure::Failure,
};

/// Attempts to end a fault before the run is given up: without its server it tests nothing.
const END_ATTEMPTS: u32 = 3;
/// Pause between attempts.
const END_PAUSE: Duration = Duration::from_secs(1);
/// The setting's name in messages.
const SETTING: &str = "--postgres-command";

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Server {
    runner: Mutex<Runner>,
    /// In the order of [`Service::ALL`].
    urls: Vec<String>,
    absence: parking_lot::Mutex<Absence>,
    /// One fault at a time: the next one waits until the server is back.
    turn: Semaphore,
}

/// When the server does not answer.
#[derive(Debug, Default)]
struct Absence {
    /// The fault that keeps it away now.
    now: Option<Kind>,
    /// The end of the last absence.
    ended: Option<Instant>,
}

impl Server {
    /// Starts the server, which must be empty, and creates a schema for each service.
    pub(super) async fn start(command: &[String]) -> Result<Self, Failure> {
        let failed = |why: String| Failure::failed(format!("{SETTING}: {why}"));
        let (mut runner, url) = Runner::start(command).await.map_err(failed)?;
        match schemas(&url).await {
            Ok(urls) => {
                let (runner, turn) = (Mutex::new(runner), Semaphore::new(1));
                Ok(Self { runner, urls, absence: Default::default(), turn })
            }
            Err(failure) => {
                end(&mut runner).await;
                let why = failure.to_string();
                let why = why.strip_prefix(postgres::SETTING).unwrap_or(&why);
                Err(failed(format!("its database {}", why.trim_start_matches([':', ' ']))))
            }
        }
    }

    /// The database of a service, as `DATABASE_URL`.
    pub(super) fn database_url(&self, service: Service) -> String {
        self.urls[service as usize].clone()
    }

    /// Begins a fault once the previous one has ended: the server crashes or freezes.
    pub(super) async fn begin(&self, kind: Kind) -> Result<(), String> {
        let command = if kind == Kind::Freeze { "freeze" } else { "crash" };
        let turn = self.turn.acquire().await.expect("it is never closed");
        let mut runner = self.runner.lock().await;
        self.absence.lock().now = Some(kind);
        runner.tell(command).await?;
        turn.forget();
        Ok(())
    }

    /// Ends the current fault, if there is one.
    pub(super) async fn end(&self) -> Result<(), String> {
        let mut runner = self.runner.lock().await;
        let command = match self.absence.lock().now {
            Some(Kind::Freeze) => "thaw",
            Some(_) => "start",
            None => return Ok(()),
        };
        let mut done = runner.tell(command).await;
        for _ in 1..END_ATTEMPTS {
            if done.is_ok() {
                break;
            }
            tokio::time::sleep(END_PAUSE).await;
            // A program that no longer answers has no useful reason to give.
            done = runner.tell(command).await.or(done);
        }
        // Even after a failure: those waiting must learn of it.
        self.turn.add_permits(1);
        done?;
        *self.absence.lock() = Absence { now: None, ended: Some(Instant::now()) };
        Ok(())
    }

    /// Whether it was away at any time since `since`.
    pub(super) fn was_away(&self, since: Instant) -> bool {
        let absence = self.absence.lock();
        absence.now.is_some() || absence.ended.is_some_and(|ended| ended >= since)
    }

    /// Thaws it if it is frozen: services that are told to stop wait for it.
    pub(super) async fn thaw(&self) {
        if self.absence.lock().now == Some(Kind::Freeze) {
            // If nothing answers, the services do not wait long either.
            let _ = self.end().await;
        }
    }

    /// Ends server and program, and waits for it.
    pub(super) async fn stop(&self) {
        end(&mut *self.runner.lock().await).await;
    }
}

async fn end(runner: &mut Runner) {
    if !runner.end().await {
        let seconds = END_PATIENCE.as_secs();
        eprintln!("chaos: the program of {SETTING} did not end within {seconds} s");
    }
}

/// Creates the services' schemas. Returns each service's URL.
async fn schemas(url: &str) -> Result<Vec<String>, Failure> {
    let mut postgres = Postgres::lock(postgres::parse(url)?).await?;
    if postgres.mark().is_some() {
        return Err(Failure::failed("holds data of `nudge dev`: chaos starts from nothing"));
    }
    postgres.prepare(false).await?;
    Ok(Service::ALL.into_iter().map(|service| postgres.service_url(service)).collect())
}

#[cfg(test)]
mod tests;
