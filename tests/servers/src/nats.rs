//! A real nats-server of a test's own.

use std::{
    env,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use async_nats::jetstream;
use nudge_runtime::Broker;
use tempfile::TempDir;

use crate::{
    port::free_port,
    signal::{self, Signal},
};

/// A nats-server with JetStream. Killed when dropped.
pub struct Nats {
    child: Option<Child>,
    port: u16,
    store: TempDir,
    config: Option<String>,
}

impl Nats {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a server with further lines of configuration.
    pub async fn start_with(config: Option<&str>) -> Self {
        crate::logs();
        let store = tempfile::tempdir().expect("a temporary directory");
        let config = config.map(str::to_owned);
        let mut nats = Self { child: None, port: free_port(), store, config };
        nats.restart().await;
        nats
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
        self.store.path()
    }

    /// Keeps a copy of its streams. It must not run.
    pub fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary directory");
        let copied = Command::new("cp").arg("-R").arg(self.streams()).arg(copy.path()).status();
        assert!(copied.expect("cp runs").success(), "the streams are copied");
        copy
    }

    /// Puts its streams back to a copy. It must not run.
    pub fn put_back(&self, copy: TempDir) {
        std::fs::remove_dir_all(self.streams()).expect("the streams are removed");
        std::fs::rename(copy.path().join("jetstream"), self.streams()).expect("the copy is moved");
    }

    fn streams(&self) -> PathBuf {
        self.store_dir().join("jetstream")
    }

    /// Kills the server, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the server to stop in order. Returns how it ended.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        signal::send(&child, Signal::TERM);
        crate::postgres::blocking(|| child.wait().expect("a child of our own")).await
    }

    /// Makes the server stand still; its connections stay open.
    pub fn freeze(&self) {
        signal::freeze(self.child.as_ref().expect("it runs"));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal::thaw(self.child.as_ref().expect("it runs"));
    }

    /// Starts the server again, on the same port with the same store.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(server_binary());
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"]);
        command.arg(self.store.path()).stdin(Stdio::null());
        if let Some(config) = &self.config {
            let path = self.store.path().join("test.conf");
            std::fs::write(&path, config).expect("the configuration is written");
            command.arg("-c").arg(path);
        }
        if env::var("LOG").is_err() {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        self.child = Some(command.spawn().expect("nats-server starts"));
        crate::eventually("nats-server answers", || async {
            let connected = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
            connected.ok()
        })
        .await;
    }

    /// [`restart`](Self::restart) with other further lines of configuration.
    pub async fn restart_with(&mut self, config: &str) {
        self.config = Some(config.to_owned());
        self.restart().await;
    }

    /// A connection for a program under test.
    pub async fn broker(&self, name: &str) -> Broker {
        Broker::connect(&self.url(), name).await.expect("a good URL")
    }

    /// A connection of the test's own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.expect("nats-server answers"))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `NATS_SERVER_BIN`, or what the project's own script finds or installs.
fn server_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os("NATS_SERVER_BIN").filter(|path| !path.is_empty()) {
            return path.into();
        }
        let output = Command::new(crate::script("nats-server"))
            .stderr(Stdio::inherit())
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "scripts/nats-server failed");
        PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
    })
}
