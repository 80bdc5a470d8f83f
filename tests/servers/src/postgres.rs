//! A real PostgreSQL server, run by the project's script, which also ends it, however the test ends.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
};

use serde_json::Value;

/// Names a server for all tests of a run: its URL, with the right to make databases. Without it,
/// each test program that needs one starts its own.
pub const SETTING: &str = "NUDGE_TEST_POSTGRES";

/// See the module's description.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    script: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Postgres {
    /// The server that tests share. It is not to be stopped.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Postgres>> = OnceLock::new();
        blocking(|| SHARED.get_or_init(|| Arc::new(Self::find_or_start())).clone()).await
    }

    /// A server of this test's own.
    pub async fn start() -> Arc<Self> {
        blocking(|| Arc::new(Self::run())).await
    }

    fn find_or_start() -> Self {
        match env::var(SETTING).ok().filter(|url| !url.is_empty()) {
            Some(url) => Self { url, running: Mutex::new(None) },
            None => Self::run(),
        }
    }

    fn run() -> Self {
        let mut script = Command::new("python3")
            .arg(crate::script("postgres"))
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let commands = script.stdin.take();
        let answers = BufReader::new(script.stdout.take().expect("a pipe"));
        let mut running = Running { script, commands, answers };
        let url = running.answer()["url"].as_str().expect("a URL").to_owned();
        Self { url, running: Mutex::new(Some(running)) }
    }

    /// The URL of the server's own database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of one of its databases.
    pub fn database_url(&self, name: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').expect("a URL with a path");
        format!("{server}/{name}")
    }

    /// Stops it in order; connections are cut.
    pub async fn stop(&self) {
        self.tell("stop").await;
    }

    /// Ends it at once, as a power cut would.
    pub async fn crash(&self) {
        self.tell("crash").await;
    }

    /// Starts it again, on the same port with the same data.
    pub async fn restart(&self) {
        self.tell("start").await;
    }

    /// Makes every process of the server stand still.
    pub async fn freeze(&self) {
        self.tell("freeze").await;
    }

    /// Lets them go on.
    pub async fn thaw(&self) {
        self.tell("thaw").await;
    }

    async fn tell(&self, command: &str) {
        blocking(|| {
            let mut running = self.running.lock().expect("not poisoned");
            let running = running.as_mut().expect("a server of the test's own");
            let commands = running.commands.as_mut().expect("a pipe");
            writeln!(commands, "{command}").expect("the script reads");
            running.answer();
        })
        .await;
    }
}

impl Running {
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script answers");
        serde_json::from_str(&line).expect("scripts/postgres runs a server")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its input ends: it stops the server and removes its data.
        drop(self.commands.take());
        let _ = self.script.wait();
    }
}

/// Runs what blocks, in any kind of runtime, without leaving the test's task.
pub(crate) async fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eventually, port::lock};

    #[tokio::test]
    async fn the_port_of_a_server_is_nobody_elses_while_its_script_runs() {
        let server = Postgres::start().await;
        let (_, port) = server.url().rsplit_once(':').expect("a port");
        let port = port.split('/').next().and_then(|port| port.parse().ok()).expect("a number");
        assert!((18_000..22_000).contains(&port), "{port}");
        server.stop().await;
        assert!(lock(port).is_none(), "also while the server is away");
        drop(server);
        eventually("the port is given back", || async { lock(port) }).await;
    }
}
