//! A server with the permissions that `nudge nats-config` writes, and services that log in to it.

use std::path::PathBuf;

use nudge_runtime::{Broker, broker::NatsArgs};
use nudge_testbed::{Nats, TestDatabase, eventually};
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::dev::demo::NUDGE;

/// Every service, with what it asks. In the order in which they start.
const SERVICES: [(&str, &[(&str, &str)]); 4] = [
    ("store-info", &[]),
    ("search", &[("store-owner-url", "store-info")]),
    ("review", &[("store-owner-url", "store-info")]),
    ("storefront", &[("store-owner-url", "store-info"), ("review-owner-url", "review")]),
];
const SUBSCRIBERS: [&str; 3] = ["search", "review", "storefront"];

/// See the module documentation.
pub(super) struct Permitted {
    pub(super) nats: Nats,
    directory: tempfile::TempDir,
    databases: Vec<TestDatabase>,
    urls: Vec<(&'static str, String)>,
    stop: CancellationToken,
    stopped: Vec<futures_util::future::BoxFuture<'static, ()>>,
    http: Client,
}

/// Waits until the server has refused this to the user.
pub(super) async fn refused(broker: &Broker, user: &str, what: &str) {
    eventually(&format!("{user} is refused: {what}"), || async {
        broker.last_error()?.contains(what).then_some(())
    })
    .await;
}

impl Permitted {
    /// With `guests`, that is the demo's configuration for those who log in as nobody.
    pub(super) async fn start(guests: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new(NUDGE);
        command.arg("nats-config").arg("--dir").arg(directory.path());
        for (role, pair) in [
            ("--owner", "store-info=store"),
            ("--subscriber", "search=store"),
            ("--subscriber", "review=store"),
            ("--owner", "review=review"),
            ("--subscriber", "storefront=store"),
            ("--subscriber", "storefront=review"),
        ] {
            command.args([role, pair]);
        }
        command.args(["--cloud-events", "board=order=ORDERS=shop.orders.*"]);
        if guests {
            command.arg("--guests");
        }
        let made = command.output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let config = std::fs::read_to_string(directory.path().join("nats.conf")).unwrap();
        let nats = Nats::start_with(Some(&config)).await;
        let mut databases = Vec::new();
        for _ in SERVICES {
            databases.push(TestDatabase::new().await);
        }
        let (urls, stopped) = (Vec::new(), Vec::new());
        let (stop, http) = (CancellationToken::new(), Client::new());
        Self { nats, directory, databases, urls, stop, stopped, http }
    }

    fn seed(&self, user: &str) -> PathBuf {
        self.directory.path().join(format!("{user}.nkey"))
    }

    /// Connects as one of the users.
    pub(super) async fn broker(&self, user: &str) -> Broker {
        let seed = (user != "guest").then(|| self.seed(user));
        let args = NatsArgs { nats_nkey_file: seed, ..NatsArgs::at(&self.nats.url()) };
        let name = if user == "nudge" { "nudge-status" } else { user };
        let broker = Broker::connect_with(&args, name).await.unwrap();
        eventually("it is connected", || async { broker.is_connected().then_some(()) }).await;
        broker
    }

    /// Takes a permission away from everybody.
    pub(super) async fn revoke(&mut self, subject: &str) {
        let path = self.directory.path().join("nats.conf");
        let config = std::fs::read_to_string(path).unwrap();
        let line = format!("          \"{subject}\"\n");
        assert!(config.contains(&line), "{config}");
        self.nats.restart_with(&config.replace(&line, "")).await;
    }

    pub(super) async fn start_services(&mut self) {
        self.stop = CancellationToken::new();
        for (place, (name, asks)) in SERVICES.into_iter().enumerate() {
            let mut words = vec![
                name.to_owned(),
                "--bind=127.0.0.1:0".to_owned(),
                format!("--nats-url={}", self.nats.url()),
                format!("--nats-nkey-file={}", self.seed(name).display()),
                format!("--database-url={}", self.databases[place].url()),
            ];
            let asks =
                asks.iter().map(|(setting, asked)| format!("--{setting}={}", self.url(asked)));
            words.extend(asks);
            let stop = self.stop.clone();
            let url = if name == "store-info" {
                let args = <store_info::Args as clap::Parser>::parse_from(words);
                let running = store_info::start(&args, stop).await.unwrap();
                let url = format!("http://{}", running.address());
                self.stopped.push(Box::pin(running.stopped()));
                url
            } else {
                let service = match name {
                    "search" => search::service(),
                    "review" => review::service(),
                    _ => storefront::service(),
                };
                let running = service.start(words, stop).await.unwrap();
                let url = format!("http://{}", running.address);
                self.stopped.push(Box::pin(running.stopped()));
                url
            };
            self.urls.push((name, url));
        }
    }

    pub(super) async fn restart_services(&mut self) {
        self.stop.cancel();
        for stopped in std::mem::take(&mut self.stopped) {
            stopped.await;
        }
        self.urls.clear();
        self.start_services().await;
    }

    fn url(&self, name: &str) -> String {
        self.urls.iter().find(|(one, _)| *one == name).unwrap().1.clone()
    }

    /// Writes a store. Returns its version.
    pub(super) async fn edit_unseen(&self, id: &str, name: &str) {
        let url = format!("{}/stores/{id}", self.url("store-info"));
        let put = self.http.put(url).json(&json!({ "name": name })).send().await.unwrap();
        assert!(put.status().is_success());
    }

    /// Writes a store, and a review of it, and waits until everybody has them.
    pub(super) async fn edit(&self, id: &str, name: &str) {
        self.edit_unseen(id, name).await;
        self.seen(id).await;
        let url = format!("{}/stores/{id}/reviews", self.url("review"));
        let review = json!({"rating": 5, "text": "맛있어요", "author": "kim"});
        let written = self.http.post(url).json(&review).send().await.unwrap();
        let token = written.headers()["nudge-token"].to_str().unwrap().to_owned();
        self.waits("storefront", &token).await;
    }

    /// Waits until everybody has the store as it is now.
    pub(super) async fn seen(&self, id: &str) {
        let url = format!("{}/stores/{id}", self.url("store-info"));
        let found = self.http.get(url).send().await.unwrap();
        let version = found.headers()["etag"].to_str().unwrap().trim_matches('"').to_owned();
        for name in SUBSCRIBERS {
            self.waits(name, &format!("store/{id}@{version}")).await;
        }
    }

    async fn waits(&self, name: &str, token: &str) {
        let url = format!("{}/nudge/v1/wait?token={token}&timeout_ms=20000", self.url(name));
        eventually(&format!("{name} has {token}"), || async {
            (self.http.get(&url).send().await.ok()?.status() == 200).then_some(())
        })
        .await;
    }

    pub(super) async fn resync(&self, name: &str) {
        let url = format!("{}/nudge/v1/resync", self.url(name));
        let asked = self.http.post(url).json(&json!({"entity": "store"})).send().await.unwrap();
        assert!(asked.status().is_success(), "{asked:?}");
    }

    pub(super) async fn post(&self, name: &str, what: &str) {
        let url = format!("{}/nudge/v1/{what}", self.url(name));
        let answer = self.http.post(url).send().await.unwrap();
        assert!(answer.status().is_success(), "{what}: {answer:?}");
    }

    pub(super) async fn status(&self, name: &str) -> Value {
        let url = format!("{}/nudge/v1/status", self.url(name));
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Nothing was refused to any of them.
    pub(super) async fn is_without_errors(&self) {
        for name in SUBSCRIBERS {
            for entity in self.status(name).await["entities"].as_array().unwrap() {
                assert_eq!(entity["connected"], json!(true), "{name}: {entity}");
                assert_eq!(entity["last_error"], Value::Null, "{name}: {entity}");
            }
        }
        let log = self.nats.log();
        assert!(!log.contains("Violation"), "{log}");
    }
}
