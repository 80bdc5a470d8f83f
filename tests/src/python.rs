//! The programs of `examples/python`, as processes.

use std::path::{Path, PathBuf};

use nudge_protocol::subject;
use nudge_runtime::{Database, database::Durability};
use nudge_testbed::{
    Program,
    program::{Launch, Output},
};
use reqwest::{Client, Method, Response};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Nats, eventually, free_port, id, services::token};

/// A program on an SQLite database of its own. Killed when dropped.
pub struct Python {
    program: Program,
    directory: TempDir,
}

impl Python {
    fn new(script: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut python = Self { program: Program::new(launch(script)), directory };
        let database = python.database();
        let mut launch = python.program.launch().clone();
        launch.args.extend(arguments.iter().map(Into::into));
        launch.args.extend(["--database".into(), database.into()]);
        python.program = Program::new(launch);
        python
    }

    /// Starts it, again if it runs already.
    pub fn start(&mut self) {
        self.program.start().expect("python3 starts");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Its database.
    pub fn database(&self) -> PathBuf {
        self.directory.path().join("its.db")
    }

    /// A copy of its database. It must not be running.
    pub fn back_up(&self) -> PathBuf {
        let copy = self.directory.path().join("copy.db");
        std::fs::copy(self.database(), &copy).expect("the database is copied");
        // What was committed last is still in its log.
        let _ = std::fs::copy(beside(&self.database()), beside(&copy));
        copy
    }

    /// Puts a copy of its database back. It must not be running.
    pub fn put_back(&self, copy: &Path) {
        for (from, to) in
            [(copy.to_owned(), self.database()), (beside(copy), beside(&self.database()))]
        {
            let _ = std::fs::remove_file(&to);
            let _ = std::fs::copy(from, to);
        }
    }
}

/// Where SQLite keeps what it has not yet moved into the database.
fn beside(database: &Path) -> PathBuf {
    database.with_extension("db-wal")
}

fn launch(script: &str) -> Launch {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python").join(script);
    let shown = std::env::var("LOG").is_ok();
    let output = if shown { Output::Ours } else { Output::Nowhere };
    let mut launch = Launch::new(script, "python3", output);
    launch.args.push(path.into());
    launch.env.push(("PYTHONDONTWRITEBYTECODE", "1".to_owned()));
    launch
}

/// `owner.py`, which owns stores.
pub struct PythonOwner {
    /// The process.
    pub python: Python,
    port: u16,
    http: Client,
}

impl PythonOwner {
    /// Starts it, and waits until it answers.
    pub async fn start(nats: &Nats) -> Self {
        crate::logs();
        let port = free_port();
        let python = Python::new("owner.py", &["--port", &port.to_string(), "--nats", &nats.url()]);
        let mut owner = Self { python, port, http: Client::new() };
        owner.restart().await;
        owner
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) {
        self.python.start();
        eventually("the owner answers", || async { self.items(1).await }).await;
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A page of its list; `None` if it does not answer.
    pub async fn items(&self, limit: usize) -> Option<Value> {
        let url = format!("{}/sync/v1/store/items", self.url());
        let request = self.http.post(url).json(&serde_json::json!({"limit": limit}));
        request.send().await.ok()?.json().await.ok()
    }

    /// Writes a store. Returns its `Nudge-Token`.
    pub async fn put(&self, store: &str, body: Value) -> String {
        token(&self.send(Method::PUT, store, Some(body)).await)
    }

    /// Deletes a store. Returns its `Nudge-Token`.
    pub async fn delete(&self, store: &str) -> String {
        token(&self.send(Method::DELETE, store, None).await)
    }

    async fn send(&self, method: Method, store: &str, body: Option<Value>) -> Response {
        let url = format!("{}/stores/{}", self.url(), subject::encode_token(&id(store)));
        let request = self.http.request(method, url);
        let request = body.iter().fold(request, |request, body| request.json(body));
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{answer:?}");
        answer
    }
}

/// `subscriber.py`, which follows an entity with a name.
pub struct PythonSubscriber {
    /// The process.
    pub python: Python,
}

impl PythonSubscriber {
    /// Starts it on an empty database.
    pub fn start(nats: &Nats, owner: &str, entity: &str) -> Self {
        crate::logs();
        let arguments = ["--owner", owner, "--nats", &nats.url(), "--entity", entity];
        let mut subscriber = Self { python: Python::new("subscriber.py", &arguments) };
        subscriber.python.start();
        subscriber
    }

    /// A second process on the same database.
    pub fn replica(&self) -> Program {
        let mut program = Program::new(self.python.program.launch().clone());
        program.start().expect("python3 starts");
        program
    }

    /// Every row that it has, in order of IDs: the ID, the version, the name unless it is deleted.
    pub async fn rows(&self) -> Vec<(String, i64, Option<String>)> {
        let path = self.python.database();
        let created = || async { path.exists().then_some(()) };
        eventually("the database is created", created).await;
        let url = format!("sqlite:{}", path.display());
        let db = Database::open(&url, Durability::Refillable).await.expect("the database opens");
        let sql = "SELECT id, version, CASE deleted WHEN 0 THEN name END FROM store ORDER BY id";
        let rows = sqlx::query_as(sql).fetch_all(db.reader()).await;
        db.close().await;
        // The table may not be there yet.
        rows.unwrap_or_default()
    }
}
