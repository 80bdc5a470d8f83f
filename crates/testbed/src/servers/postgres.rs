//! A real PostgreSQL server, run by the project's script, which also stops it, however the test ends.

use std::{
    env,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::{OnceCell, mpsc, oneshot};

use crate::postgres::Runner;

/// Names a server for all tests of a run: its URL, with permission to create databases. Without it,
/// each test program that needs one starts its own.
pub const SETTING: &str = "NUDGE_TEST_POSTGRES";

/// See the module documentation.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    own: Option<Own>,
}

/// A server of ours. It is run by its own thread: the one that tests share outlives the runtime of the
/// test that started it.
#[derive(Debug)]
struct Own {
    /// `None` once it must end.
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// A command, and a channel to report its completion.
type Order = (&'static str, oneshot::Sender<Result<(), String>>);

impl Postgres {
    /// The server that tests share. It must not be stopped.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
        SHARED.get_or_init(async || Arc::new(Self::find_or_start().await)).await.clone()
    }

    /// A server for this test alone.
    pub async fn start() -> Arc<Self> {
        Arc::new(Self::run("run").await)
    }

    /// A server that waits for the disk, as those that keep somebody's data do.
    pub async fn start_durable() -> Arc<Self> {
        Arc::new(Self::run("run-durable").await)
    }

    async fn find_or_start() -> Self {
        super::logs();
        match env::var(SETTING).ok().filter(|url| !url.is_empty()) {
            Some(url) => Self { url, own: None },
            None => Self::run("run").await,
        }
    }

    async fn run(command: &'static str) -> Self {
        super::logs();
        let (orders, taken) = mpsc::unbounded_channel();
        let (tell, started) = oneshot::channel();
        let thread = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(carry_out(command, taken, tell));
        });
        let url = started.await.expect("an answer").expect("scripts/postgres runs a server");
        Self { url, own: Some(Own { orders: Some(orders), thread: Some(thread) }) }
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

    /// Stops it gracefully; connections are cut.
    pub async fn stop(&self) {
        self.tell("stop").await;
    }

    /// Ends it immediately, like a power cut.
    pub async fn crash(&self) {
        self.tell("crash").await;
    }

    /// Starts it again, on the same port with the same data.
    pub async fn restart(&self) {
        self.tell("start").await;
    }

    /// Freezes every process of the server.
    pub async fn freeze(&self) {
        self.tell("freeze").await;
    }

    /// Thaws them.
    pub async fn thaw(&self) {
        self.tell("thaw").await;
    }

    async fn tell(&self, command: &'static str) {
        let own = self.own.as_ref().expect("a server of the test's own");
        let (done, is_done) = oneshot::channel();
        own.orders.as_ref().expect("it runs").send((command, done)).expect("its thread runs");
        is_done.await.expect("its thread runs").expect("the script does as it is told");
    }
}

/// Runs a server until nobody can send commands any more.
async fn carry_out(
    command: &'static str,
    mut orders: mpsc::UnboundedReceiver<Order>,
    started: oneshot::Sender<Result<String, String>>,
) {
    let script = super::script("postgres").display().to_string();
    match Runner::start(&["python3".to_owned(), script, command.to_owned()]).await {
        // The waiting test may have given up.
        Err(why) => drop(started.send(Err(why))),
        Ok((mut runner, url)) => {
            let _ = started.send(Ok(url));
            while let Some((command, done)) = orders.recv().await {
                let _ = done.send(runner.tell(command).await);
            }
            runner.end().await;
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It stops the server and removes its data.
        drop(self.orders.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eventually, ports::lock};

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
