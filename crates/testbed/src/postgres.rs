//! A PostgreSQL server, run by a program that takes commands, as `scripts/postgres run` does.
//!
//! It prints one line of JSON with the `url` once the server answers, then takes `stop`, `crash`, `start`,
//! `freeze` and `thaw` on its standard input, each answered by such a line when it is done, or by one with an
//! `error` that says why not; it then takes more commands. When its standard input ends, it ends the server. That input is a pipe that only we hold: it ends with us,
//! however we end.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// Longest wait for the first answer: programs may have to be installed.
const FIRST_PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for any other: a killed server may take minutes to recover on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for the end of program and server.
pub const END_PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// The program that runs the server. It is never killed, since its server would stay behind.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    /// `None` once it is useless: its answers may belong to other commands.
    commands: Option<ChildStdin>,
    answers: Take<BufReader<ChildStdout>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Done { url: String },
    Failed { error: String },
}

impl Runner {
    /// Starts the program, given as the words of a command line, and waits until the server answers.
    /// Returns the server's URL, too.
    ///
    /// # Errors
    ///
    /// One line for people. The program's input is closed then.
    pub async fn start(command: &[String]) -> Result<(Self, String), String> {
        let mut runner = Self::spawn(command)?;
        let url = runner.answer(FIRST_PATIENCE).await?;
        Ok((runner, url))
    }

    fn spawn(command: &[String]) -> Result<Self, String> {
        let (exe, args) = command.split_first().ok_or("it is empty")?;
        let child = Command::new(exe)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Its messages, such as that it installs a server, are for the person who waits.
            .stderr(Stdio::inherit())
            // Its own group: a Ctrl-C at the terminal reaches only us.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| format!("cannot start {exe}: {error}"))?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        Ok(Self { child, commands, answers: answers.take(MAX_ANSWER_BYTES) })
    }

    /// Sends a command and waits until it is done.
    ///
    /// # Errors
    ///
    /// One line for people. Unless it is the program's own answer, no more commands are possible.
    pub async fn tell(&mut self, command: &str) -> Result<(), String> {
        let commands = self.commands.as_mut().ok_or("its program no longer answers")?;
        // If this fails it has ended, which no answer says better.
        let _ = commands.write_all(format!("{command}\n").as_bytes()).await;
        self.answer(PATIENCE).await.map(drop).map_err(|why| format!("`{command}`: {why}"))
    }

    /// The URL in the next answer, or the error.
    async fn answer(&mut self, patience: Duration) -> Result<String, String> {
        let mut line = String::new();
        self.answers.set_limit(MAX_ANSWER_BYTES);
        let read = tokio::time::timeout(patience, self.answers.read_line(&mut line)).await;
        let answer = match read {
            Ok(Ok(0)) => Err("the program has ended".to_owned()),
            Ok(Ok(_)) => serde_json::from_str(&line)
                .map_err(|error| format!("its answer is not a line of JSON with a url ({error})")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        };
        match answer {
            Ok(Answer::Done { url }) => Ok(url),
            Ok(Answer::Failed { error }) => Err(error),
            Err(why) => {
                self.commands = None;
                Err(why)
            }
        }
    }

    /// Ends server and program. False if that takes longer than [`END_PATIENCE`]; they may still end.
    pub async fn end(&mut self) -> bool {
        self.commands = None;
        tokio::time::timeout(END_PATIENCE, self.child.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests;
