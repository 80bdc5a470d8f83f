//! A PostgreSQL server of the run's own, to which things can happen as to every other program.
//!
//! It is run by a program that takes commands, as `scripts/postgres run` does: one line of JSON with
//! the `url` once the server answers, then `crash`, `start`, `freeze` and `thaw` on its standard
//! input, each answered by such a line when it is done. When its standard input ends, it ends the
//! server. That input is a pipe which we alone hold: it ends with us, however we end.

use std::{
    process::Stdio,
    sync::Mutex as StdMutex,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use super::plan::Kind;
use crate::{
    client::Service,
    dev::postgres::{self, Postgres},
    failure::Failure,
};

/// How messages name the setting.
const SETTING: &str = "--postgres-command";
/// Longest wait for the first answer: programs may have to be installed.
const FIRST_PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for any other.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest wait for the end of program and server.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Server {
    program: Mutex<Program>,
    /// In the order of [`Service::ALL`].
    urls: Vec<String>,
    absence: StdMutex<Absence>,
}

/// When the server does not answer.
#[derive(Debug, Default)]
struct Absence {
    /// The fault that keeps it away now.
    now: Option<Kind>,
    /// The end of the last absence.
    ended: Option<Instant>,
}

/// The program that runs it.
#[derive(Debug)]
struct Program {
    child: Child,
    /// None once it is of no more use: its answers may belong to other commands.
    commands: Option<ChildStdin>,
    answers: Take<BufReader<ChildStdout>>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    url: String,
}

impl Server {
    /// Starts the server, and makes a schema for each service on it, which must be empty.
    pub(super) async fn start(command: &[String]) -> Result<Self, Failure> {
        let failed = |why: String| Failure::failed(format!("{SETTING}: {why}"));
        let mut program = Program::start(command).map_err(failed)?;
        let url = program.answer(FIRST_PATIENCE).await.map_err(failed)?.url;
        match schemas(&url).await {
            Ok(urls) => {
                Ok(Self { program: Mutex::new(program), urls, absence: StdMutex::default() })
            }
            Err(failure) => {
                program.end().await;
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

    /// Begins a fault: the server is ended at once, or stands still.
    pub(super) async fn begin(&self, kind: Kind) -> Result<(), String> {
        let command = if kind == Kind::Freeze { "freeze" } else { "crash" };
        let mut program = self.program.lock().await;
        self.absence().now = Some(kind);
        program.tell(command).await
    }

    /// Ends the fault that is under way, if there is one.
    pub(super) async fn end(&self) -> Result<(), String> {
        let mut program = self.program.lock().await;
        let command = match self.absence().now {
            Some(Kind::Freeze) => "thaw",
            Some(_) => "start",
            None => return Ok(()),
        };
        program.tell(command).await?;
        *self.absence() = Absence { now: None, ended: Some(Instant::now()) };
        Ok(())
    }

    /// Whether it was away for any time from `since` up to now.
    pub(super) fn was_away(&self, since: Instant) -> bool {
        let absence = self.absence();
        absence.now.is_some() || absence.ended.is_some_and(|ended| ended >= since)
    }

    /// Lets it go on if it stands still: services that are told to stop wait for it.
    pub(super) async fn thaw(&self) {
        if self.absence().now == Some(Kind::Freeze) {
            // If nothing answers, then the services are not waited for as long.
            let _ = self.end().await;
        }
    }

    /// Ends server and program, and waits for it.
    pub(super) async fn stop(&self) {
        self.program.lock().await.end().await;
    }

    fn absence(&self) -> std::sync::MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Makes the services' schemas. Returns where each service finds its own.
async fn schemas(url: &str) -> Result<Vec<String>, Failure> {
    let mut postgres = Postgres::lock(postgres::parse(url)?).await?;
    if postgres.mark().is_some() {
        return Err(Failure::failed("holds data of `nudge dev`: chaos begins with nothing"));
    }
    postgres.prepare(false).await?;
    Ok(Service::ALL.into_iter().map(|service| postgres.service_url(service)).collect())
}

impl Program {
    fn start(command: &[String]) -> Result<Self, String> {
        let (exe, args) = command.split_first().ok_or("it is empty")?;
        let child = Command::new(exe)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it has to say, such as that it installs a server, is for the person who waits.
            .stderr(Stdio::inherit())
            // Its own group: a Ctrl-C at the terminal reaches us alone. And it is never killed: a
            // server whose program is gone would stay behind.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| format!("cannot start {exe}: {error}"))?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        Ok(Self { child, commands, answers: answers.take(MAX_ANSWER_BYTES) })
    }

    /// Sends a command and waits until it is done.
    async fn tell(&mut self, command: &str) -> Result<(), String> {
        let commands = self.commands.as_mut().ok_or("its program does not answer any more")?;
        // If this fails it has ended, which no answer says better.
        let _ = commands.write_all(format!("{command}\n").as_bytes()).await;
        self.answer(PATIENCE).await.map(drop).map_err(|why| format!("`{command}`: {why}"))
    }

    async fn answer(&mut self, patience: Duration) -> Result<Answer, String> {
        let mut line = String::new();
        self.answers.set_limit(MAX_ANSWER_BYTES);
        let read = tokio::time::timeout(patience, self.answers.read_line(&mut line)).await;
        let answer = match read {
            Ok(Ok(0)) => Err("the program has ended".to_owned()),
            Ok(Ok(_)) => serde_json::from_str(&line)
                .map_err(|error| format!("its answer is no line of JSON with a url ({error})")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        };
        if answer.is_err() {
            self.commands = None;
        }
        answer
    }

    async fn end(&mut self) {
        self.commands = None;
        if tokio::time::timeout(END_PATIENCE, self.child.wait()).await.is_err() {
            let seconds = END_PATIENCE.as_secs();
            eprintln!("chaos: the program of {SETTING} does not end within {seconds} s");
        }
    }
}

#[cfg(test)]
mod tests;
