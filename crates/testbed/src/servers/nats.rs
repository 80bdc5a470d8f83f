//! A real nats-server for one test.

use std::{
    env,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use async_nats::jetstream;
use nudge_runtime::Broker;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::PATIENCE;
use crate::{
    Program,
    nats::{find, launch},
    ports::free_port,
    program::{Launch, Output},
};

/// A nats-server with JetStream. Killed when dropped.
pub struct Nats {
    program: Option<Program>,
    port: u16,
    store: PathBuf,
    _temporary: Option<TempDir>,
    config: Option<String>,
}

impl Nats {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server with additional lines of configuration.
    pub async fn start_with(config: Option<&str>) -> Self {
        super::logs();
        let store = tempfile::tempdir().expect("a temporary directory");
        let config = config.map(str::to_owned);
        let path = store.path().to_owned();
        Self::at(path, Some(store), config).await
    }

    /// Starts a server on what another one has left in this directory, which stays.
    pub async fn on(store: &Path) -> Self {
        Self::at(store.to_owned(), None, None).await
    }

    async fn at(store: PathBuf, _temporary: Option<TempDir>, config: Option<String>) -> Self {
        let mut nats = Self { program: None, port: free_port(), store, _temporary, config };
        nats.restart().await;
        nats
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).expect("a log")
    }

    fn log_file(&self) -> PathBuf {
        self.store.join("server.log")
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the server keeps its streams.
    pub fn store_dir(&self) -> &Path {
        &self.store
    }

    /// Copies its streams. It must not be running.
    pub fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        let copied = Command::new("cp").arg("-R").arg(self.streams()).arg(copy.path()).status();
        assert!(copied.expect("cp runs").success(), "the streams are copied");
        copy
    }

    /// Restores its streams from a copy. It must not be running.
    pub fn put_back(&self, copy: TempDir) {
        std::fs::remove_dir_all(self.streams()).expect("the streams are removed");
        std::fs::rename(copy.path().join("jetstream"), self.streams()).expect("the copy is moved");
    }

    fn streams(&self) -> PathBuf {
        self.store_dir().join("jetstream")
    }

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        self.program = None;
    }

    /// Asks the server to stop gracefully. Returns how it ended.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut program = self.program.take().expect("it runs");
        program.stop(PATIENCE).await.expect("it stops")
    }

    /// Freezes the server; its connections stay open.
    pub fn freeze(&self) {
        assert!(self.program().freeze(), "it stands still");
    }

    /// Thaws it.
    pub fn thaw(&self) {
        self.program().thaw();
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("it runs")
    }

    /// Starts the server again, on the same port with the same store.
    pub async fn restart(&mut self) {
        self.kill();
        let mut program = Program::new(self.launch().await);
        program.start().expect("nats-server starts");
        self.program = Some(program);
        super::eventually("nats-server answers", || async {
            let connected = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
            connected.ok()
        })
        .await;
    }

    async fn launch(&self) -> Launch {
        let output = match env::var("LOG") {
            Ok(_) => Output::Ours,
            Err(_) => Output::Log(self.log_file()),
        };
        let mut launch = launch(server_binary().await, self.port, &self.store, output);
        // It has no guard, so a Ctrl-C must reach it, too.
        launch.own_group = false;
        if let Some(config) = &self.config {
            let path = self.store.join("test.conf");
            std::fs::write(&path, config).expect("the configuration is written");
            launch.args.extend(["--config".into(), path.into()]);
        }
        launch
    }

    /// [`restart`](Self::restart) with other additional lines of configuration.
    pub async fn restart_with(&mut self, config: &str) {
        self.config = Some(config.to_owned());
        self.restart().await;
    }

    /// A connection for a program under test.
    pub async fn broker(&self, name: &str) -> Broker {
        Broker::connect(&self.url(), name).await.expect("a good URL")
    }

    /// A connection for the test itself.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.expect("nats-server answers"))
    }

    /// Every message that is published on these subjects from now on.
    pub async fn subscribe(&self, subjects: &str) -> async_nats::Subscriber {
        let jetstream = self.jetstream().await;
        let subscriber = jetstream.client().subscribe(subjects.to_owned()).await;
        // The server has the subscription once it answers a later request on the same connection.
        jetstream.query_account().await.expect("nats-server answers");
        subscriber.expect("a subscription")
    }
}

/// `NATS_SERVER_BIN`, or what the project's own script finds or installs.
async fn server_binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    let found = async { find(&[Path::new(env!("CARGO_MANIFEST_DIR"))], || ()).await };
    BINARY.get_or_init(async || found.await.expect("a nats-server")).await
}
