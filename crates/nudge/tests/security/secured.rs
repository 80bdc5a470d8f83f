//! All services, each with a token of its own.

use std::{net::SocketAddr, path::PathBuf, process::Output, time::Duration};

use nudge_runtime::{
    auth::{
        Scope,
        sign::{Grant, SigningKey},
    },
    tls::{Tls, TlsArgs},
};
use nudge_testbed::{
    Nats, TestDatabase, eventually,
    ports::free_port,
    program::{Launch, Output as To, Program},
};
use reqwest::{Client, Response};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::authority::{Authority, Files, own};

const NUDGE: &str = env!("CARGO_BIN_EXE_nudge");
const ISSUER: &str = "nudge";
const HOUR: Duration = Duration::from_secs(3_600);

/// What a token file shall contain.
pub(super) struct Token {
    scopes: Vec<Scope>,
    own: bool,
}

impl Token {
    pub(super) fn of(scopes: &[Scope]) -> Self {
        Self { scopes: scopes.into(), own: true }
    }

    pub(super) fn without_scopes() -> Self {
        Self::of(&[])
    }

    /// Signed with a key that nobody knows.
    pub(super) fn of_somebody_else() -> Self {
        Self { scopes: Scope::ALL.into(), own: false }
    }
}

/// The demo's services and those of `examples/charging`, in this process. Stopped when dropped.
pub(super) struct Secured {
    pub(super) http: Client,
    /// Each with its base URL.
    pub(super) services: Vec<(&'static str, String)>,
    authority: Option<Authority>,
    _certificates: Vec<Files>,
    key: SigningKey,
    directory: tempfile::TempDir,
    _stop: DropGuard,
    _databases: Vec<TestDatabase>,
    _nats: Nats,
}

impl Secured {
    pub(super) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// In TLS, with certificates on both sides, or without.
    pub(super) async fn start_with(authority: Option<Authority>) -> Self {
        let (nats, stop) = (Nats::start().await, CancellationToken::new());
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        std::fs::write(directory.path().join("jwks.json"), key.jwks().to_string()).unwrap();
        let guard = stop.clone().drop_guard();
        let (databases, services) = (Vec::new(), Vec::new());
        let mut all = Self {
            http: Client::new(),
            _certificates: Vec::new(),
            authority,
            services,
            key,
            directory,
            _stop: guard,
            _databases: databases,
            _nats: nats,
        };
        if all.authority.is_some() {
            let certificates = all.certify();
            all.http = Tls::of(&certificates).unwrap().http().no_proxy().build().unwrap();
        }
        let words = all.words("store-info", &[]).await;
        let args = <store_info::Args as clap::Parser>::parse_from(words);
        let store_info = store_info::start(&args, stop.clone()).await.unwrap();
        all.services.push(("store-info", all.url_at(store_info.address())));
        all.add("search", search::service(), &["store-info"], &stop).await;
        all.add("review", review::service(), &["store-info"], &stop).await;
        all.add("favourites", favourites::service(), &["store-info"], &stop).await;
        all.add("ads", ads::service(), &["store-info"], &stop).await;
        let others = ["store-info", "review", "search", "favourites", "ads"];
        all.add("storefront", storefront::service(), &others, &stop).await;
        all.add("charging-stations", charging::stations::service(), &[], &stop).await;
        all.add("charging-map", charging::map::service(), &["charging-stations"], &stop).await;
        all
    }

    async fn add(
        &mut self,
        name: &'static str,
        service: nudge_subscriber_kit::Service,
        asks: &[&str],
        stop: &CancellationToken,
    ) {
        let words = self.words(name, asks).await;
        let running = service.start(words, stop.clone()).await.unwrap();
        self.services.push((name, self.url_at(running.address)));
    }

    fn url_at(&self, address: SocketAddr) -> String {
        match self.authority {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        }
    }

    /// Gives a program a certificate, and says where it is.
    fn certify(&mut self) -> TlsArgs {
        let (authority, files) = (self.authority.as_ref().expect("an authority"), Files::new());
        let ca = files.write("ca", &authority.pem);
        let own = own(&files, authority.sign("localhost", |_| ()));
        self._certificates.push(files);
        TlsArgs { tls_ca_file: ca.clone(), tls_client_ca_file: ca, ..own }
    }

    async fn words(&mut self, name: &str, asks: &[&str]) -> Vec<String> {
        self.give(name, &Token::of(&[Scope::Sync, Scope::Read]));
        let database = TestDatabase::new().await;
        let jwks = self.directory.path().join("jwks.json");
        let mut words = vec![
            name.to_owned(),
            "--bind=127.0.0.1:0".to_owned(),
            format!("--nats-url={}", self._nats.url()),
            format!("--database-url={}", database.url()),
            format!("--auth-issuer={ISSUER}"),
            format!("--auth-jwks={}", jwks.display()),
            format!("--auth-token-file={}", self.file_of(name).display()),
        ];
        if self.authority.is_some() {
            let TlsArgs { tls_cert_file, tls_key_file, tls_client_ca_file, tls_ca_file } =
                self.certify();
            for (setting, path) in [
                ("cert", tls_cert_file),
                ("key", tls_key_file),
                ("client-ca", tls_client_ca_file),
                ("ca", tls_ca_file),
            ] {
                words.push(format!("--tls-{setting}-file={}", path.unwrap().display()));
            }
        }
        for asked in asks {
            let setting = match *asked {
                "store-info" => "store-owner-url",
                "review" => "review-owner-url",
                "charging-stations" => "station-owner-url",
                "search" => "search-url",
                "favourites" => "favourites-url",
                _ => "ads-url",
            };
            words.push(format!("--{setting}={}", self.url(asked)));
        }
        self._databases.push(database);
        words
    }

    pub(super) fn url(&self, name: &str) -> String {
        self.services.iter().find(|(one, _)| *one == name).unwrap().1.clone()
    }

    /// A caller's token.
    pub(super) fn token(&self, scopes: &[Scope]) -> String {
        let grant = Grant { subject: "kim".into(), scopes: scopes.into(), only: None };
        self.key.token(ISSUER, "nudge", &grant, HOUR)
    }

    /// The same, for these paths only.
    pub(super) fn restricted(&self, scopes: &[Scope], only: &[&str]) -> String {
        let only = only.iter().map(ToString::to_string).collect();
        let grant = Grant { subject: "owner".into(), scopes: scopes.into(), only: Some(only) };
        self.key.token(ISSUER, "nudge", &grant, HOUR)
    }

    fn file_of(&self, service: &str) -> PathBuf {
        self.directory.path().join(format!("{service}.token"))
    }

    /// Replaces the service's own token.
    pub(super) fn give(&self, service: &str, token: &Token) {
        let stranger = SigningKey::generate().unwrap();
        let key = if token.own { &self.key } else { &stranger };
        let grant = Grant { subject: service.into(), scopes: token.scopes.clone(), only: None };
        let new = self.directory.path().join("new");
        std::fs::write(&new, key.token(ISSUER, "nudge", &grant, HOUR)).unwrap();
        std::fs::rename(new, self.file_of(service)).unwrap();
    }

    pub(super) async fn get(&self, url: &str, token: &str) -> Response {
        self.http.get(url).bearer_auth(token).send().await.unwrap()
    }

    /// Replaces a store. Returns its `Nudge-Token`.
    pub(super) async fn put_store(&self, id: &str, store: &Value, token: &str) -> String {
        let url = format!("{}/stores/{id}", self.url("store-info"));
        let answer = self.http.put(url).bearer_auth(token).json(store).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.headers()["nudge-token"].to_str().unwrap().to_owned()
    }

    /// Waits until a service has applied a write.
    pub(super) async fn applied(&self, service: &str, written: &str) {
        let url = format!("{}/nudge/v1/wait?token={written}&timeout_ms=30000", self.url(service));
        let reader = self.token(&[Scope::Read]);
        eventually("it is applied", || async {
            (self.get(&url, &reader).await.status() == 200).then_some(())
        })
        .await;
    }
}

/// A service as a process, with a key that `nudge token` made.
pub(super) struct Process {
    directory: tempfile::TempDir,
    port: u16,
    _program: Program,
    _database: TestDatabase,
    _nats: Nats,
}

impl Process {
    /// `log` is what it logs. Owners that it follows are away.
    pub(super) async fn start(service: &'static str, log: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (nats, database) = (Nats::start().await, TestDatabase::new().await);
        let path = |name: &str| directory.path().join(name);
        let key = path("signing.key");
        let jwks = tokio::process::Command::new(NUDGE)
            .args(["token", "--jwks", "--key"])
            .arg(&key)
            .output()
            .await
            .unwrap();
        assert!(jwks.status.success(), "{jwks:?}");
        std::fs::write(path("jwks.json"), jwks.stdout).unwrap();
        let port = free_port();
        let mut launch = Launch::new(service, NUDGE, To::Log(path("log")));
        launch.args = ["service", service].map(Into::into).into();
        launch.env = vec![
            ("BIND", format!("127.0.0.1:{port}")),
            ("NATS_URL", nats.url()),
            ("DATABASE_URL", database.url().to_owned()),
            ("AUTH_ISSUER", ISSUER.to_owned()),
            ("AUTH_JWKS", path("jwks.json").display().to_string()),
            ("STORE_OWNER_URL", format!("http://127.0.0.1:{}", free_port())),
            ("LOG", log.to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        let mut program = Program::new(launch);
        program.start().unwrap();
        let url = format!("http://127.0.0.1:{port}/livez");
        eventually("it answers", || async { reqwest::get(&url).await.ok() }).await;
        Self { directory, port, _program: program, _database: database, _nats: nats }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.path().join("signing.key")
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Its audit log: who did what, and how it was answered.
    pub(super) fn audit(&self) -> Vec<(String, String, String, u16)> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let read = |line: Value| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            let status = line["status"].as_u64().unwrap() as u16;
            (text("subject"), text("method"), text("path"), status)
        };
        lines.filter(|line| line["target"] == "audit").map(read).collect()
    }

    /// Makes a token, and returns the file that it is in.
    pub(super) async fn token(&self, subject: &str, more: &[&str]) -> PathBuf {
        let mut command = tokio::process::Command::new(NUDGE);
        command.args(["token", "--subject", subject, "--key"]).arg(self.key()).args(more);
        let made = command.output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let path = self.directory.path().join(format!("{subject}.token"));
        std::fs::write(&path, made.stdout).unwrap();
        path
    }

    /// A command for the demo's store-info, which is one above the base.
    pub(super) async fn nudge(&self, words: &[&str], token: Option<&PathBuf>) -> Output {
        let mut command = tokio::process::Command::new(NUDGE);
        command.args(["--port-base", &(self.port - 1).to_string()]).args(words);
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        command.output().await.unwrap()
    }
}
