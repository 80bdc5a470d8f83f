//! The services as separate processes, so that they can be killed, stopped and frozen in the middle of whatever they
//! do.
//!
//! | module | what it provides |
//! |---|---|
//! | [`roster`] | which programs are up, for those who talk to them |
//! | [`writer`] | a stream of edits |
//! | [`reader`] | a stream of reads, and the longest time without an answer |
//! | [`events`] | the events of a subscriber |
//! | [`stream`] | the state of the broker |
//! | [`locks`] | freezing a program while it holds no locks |
//! | [`compare`] | whether everyone agrees and has come to rest |
//! | [`trial`] | all of these for the duration of a test |

pub mod compare;
pub mod events;
pub mod locks;
pub mod reader;
pub mod roster;
pub mod stream;
pub mod trial;
pub mod writer;

use std::{
    collections::BTreeMap,
    env,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nudge_protocol::subject::encode_token;
use nudge_runtime::database::Kind;
use nudge_testbed::program::{Launch, Output, Program};
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::Value;

use crate::{Nats, PATIENCE, Service, TestDatabase, database, figure::Asked, free_port};
use roster::{Place, Roster};

/// Longest time that anything but a read may take: a write waits for others who use the database.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time that a program may take to stop: the time for open requests (5 s) and for batches (10 s), doubled for a
/// busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The services that are tried: an owner, one that follows it, and one that does both.
const TRIED: [Service; 3] = [Service::StoreInfo, Service::Search, Service::Review];
/// Those of them that follow stores.
const SUBSCRIBERS: [Service; 2] = [Service::Search, Service::Review];

/// The name that [`World`] gives NATS.
pub const NATS: &str = "nats";

/// NATS, programs, and their databases: one for each service, which its replicas share.
pub struct World {
    binary: PathBuf,
    nats: Nats,
    databases: BTreeMap<Service, TestDatabase>,
    programs: BTreeMap<&'static str, Program>,
    /// Which programs are up.
    pub roster: Roster,
    http: Client,
    /// What programs that have ended since had asked the owner for.
    asked_before: Asked,
    /// When something was last started or thawed.
    mended: Mutex<Instant>,
}

/// Settings of a program that replace those of [`World`].
#[derive(Default)]
pub struct Further {
    /// Its name in `bin/program.rs`, if that is not the service's name.
    pub called: Option<&'static str>,
    /// Where it finds NATS.
    pub nats_url: Option<String>,
    /// Where it finds the owner.
    pub owner_url: Option<String>,
    /// Its database.
    pub database_url: Option<String>,
}

impl World {
    /// NATS and three empty databases. `binary` is the program of `bin/program.rs`.
    pub async fn new(binary: &str) -> Self {
        Self::on(database::kind(), binary).await
    }

    /// Like [`new`](Self::new), on databases of this kind.
    pub async fn on(kind: Kind, binary: &str) -> Self {
        let mut databases = BTreeMap::new();
        for service in TRIED {
            databases.insert(service, TestDatabase::of(kind).await);
        }
        Self {
            binary: Path::new(binary).to_owned(),
            nats: Nats::start().await,
            databases,
            programs: BTreeMap::new(),
            roster: Roster::default(),
            http: client(WRITE_TIMEOUT),
            asked_before: Asked::default(),
            mended: Mutex::new(Instant::now()),
        }
    }

    /// Adds a program, and waits until it answers. Owners come first.
    pub async fn add(&mut self, name: &'static str, service: Service, further: Further) {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let nats = further.nats_url.unwrap_or_else(|| self.nats.url());
        let database = further.database_url.as_deref().unwrap_or(self.databases[&service].url());
        let called = further.called.unwrap_or(service.name());
        let mut arguments =
            vec![called, "--bind", &address, "--nats-url", &nats, "--database-url", database];
        let owner = match (service, further.owner_url) {
            (Service::StoreInfo, _) => None,
            (_, Some(url)) => Some(url),
            _ => Some(self.roster.up(Service::StoreInfo)[0].1.url.clone()),
        };
        if let Some(owner) = &owner {
            arguments.extend(["--store-owner-url", owner]);
        }
        let output = if env::var("LOG").is_ok() { Output::Ours } else { Output::Nowhere };
        let mut launch = Launch::new(name, &self.binary, output);
        launch.args = arguments.into_iter().map(Into::into).collect();
        // The program ends when its input ends.
        launch.holds_input = true;
        self.programs.insert(name, Program::new(launch));
        self.roster.add(name, service, format!("http://{address}"));
        self.start(&[name]).await;
    }

    /// NATS.
    pub fn nats(&self) -> &Nats {
        &self.nats
    }

    /// The database that the replicas of a service share.
    pub fn database(&self, service: Service) -> &TestDatabase {
        &self.databases[&service]
    }

    /// A program's port.
    pub fn port(&self, name: &str) -> u16 {
        let url = self.place(name).url;
        url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
    }

    /// A program's entry in the roster.
    pub fn place(&self, name: &str) -> Place {
        self.roster.place(name)
    }

    /// Kills it.
    pub async fn kill(&mut self, name: &str) {
        if name == NATS {
            return self.nats.kill();
        }
        self.take_away(name).await;
        self.programs.get_mut(name).expect("a program").kill();
    }

    /// Stops it, which must be graceful and in time.
    pub async fn stop(&mut self, name: &str) {
        let status = if name == NATS {
            self.nats.stop().await
        } else {
            self.take_away(name).await;
            let program = self.programs.get_mut(name).expect("a program");
            let status = program.stop(STOP_DEADLINE).await;
            status.unwrap_or_else(|| panic!("{name} does not stop"))
        };
        assert_eq!(status.code(), Some(0), "{name}: {status}");
    }

    /// Freezes it.
    pub fn freeze(&self, name: &str) {
        if name == NATS {
            return self.nats.freeze();
        }
        self.roster.set(name, false);
        assert!(self.programs[name].freeze(), "cannot freeze {name}");
    }

    /// Lets it continue.
    pub fn thaw(&self, name: &str) {
        self.note_mend();
        if name == NATS {
            return self.nats.thaw();
        }
        self.programs[name].thaw();
        self.roster.set(name, true);
    }

    /// Starts programs again, all at the same time, and waits until they answer.
    pub async fn start(&mut self, names: &[&str]) {
        self.note_mend();
        let programs = || names.iter().copied().filter(|name| *name != NATS);
        for name in programs() {
            let program = self.programs.get_mut(name).expect("a program");
            assert!(!program.is_started(), "{name} runs already");
            program.start().expect("the program starts");
        }
        if names.contains(&NATS) {
            self.nats.restart().await;
        }
        for name in programs() {
            self.answers(name).await;
            self.roster.set(name, true);
        }
    }

    async fn answers(&mut self, name: &str) {
        let url = format!("{}/livez", self.place(name).url);
        let program = self.programs.get_mut(name).expect("a program");
        let asked = async {
            loop {
                if self.http.get(&url).send().await.is_ok_and(|a| a.status().is_success()) {
                    return;
                }
                let ended = program.ended();
                assert!(ended.is_none(), "{name} ended by itself: {ended:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        in_time(&format!("{name} answers"), asked).await;
    }

    /// Marks a program as gone, after noting its figures.
    async fn take_away(&mut self, name: &str) {
        let place = self.place(name);
        self.roster.set(name, false);
        if place.service != Service::StoreInfo {
            // A program that is frozen or has just started has none.
            let asked = self.asked_by(name).await;
            self.asked_before = self.asked_before + asked;
        }
    }

    async fn asked_by(&self, name: &str) -> Asked {
        let calls = self.metric(name, "nudge_callbacks_total").await.unwrap_or(0);
        Asked { calls, keys: self.metric(name, "nudge_asked_total").await.unwrap_or(0) }
    }

    /// What all subscribers together have asked the owner for so far.
    pub async fn asked(&self) -> Asked {
        let mut asked = self.asked_before;
        for (name, _) in SUBSCRIBERS.map(|s| self.roster.up(s)).concat() {
            asked = asked + self.asked_by(name).await;
        }
        asked
    }

    fn note_mend(&self) {
        *self.mended.lock() = Instant::now();
    }

    /// When something was last started or thawed.
    pub fn mended(&self) -> Instant {
        *self.mended.lock()
    }

    /// A subscriber's metric about stores, if it answers.
    pub async fn metric(&self, name: &str, metric: &str) -> Option<u64> {
        let url = format!("{}/metrics", self.place(name).url);
        let asked = self.http.get(url).timeout(Duration::from_secs(2)).send().await.ok()?;
        let text = asked.text().await.ok()?;
        let series = format!("{metric}{{entity=\"store\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series))?.parse().ok()
    }

    /// A subscriber's status about stores, if it answers.
    pub async fn status(&self, name: &str) -> Option<Value> {
        let url = format!("{}/nudge/v1/status", self.place(name).url);
        let status: Value = self.http.get(url).send().await.ok()?.json().await.ok()?;
        let entities = status["entities"].as_array()?;
        entities.iter().find(|status| status["entity"] == "store").cloned()
    }

    /// The version of a store that a subscriber has applied.
    pub async fn applied(&self, name: &str, id: &str) -> Option<u64> {
        let (url, token) = (self.place(name).url, encode_token(&crate::id(id)));
        let asked = self.http.get(format!("{url}/nudge/v1/applied/store/{token}")).send();
        asked.await.ok()?.json::<Value>().await.ok()?["version"].as_u64()
    }

    /// Fails when a program has ended without being told to.
    pub fn nobody_ended(&mut self) {
        for (name, program) in self.programs.iter_mut().filter(|(_, program)| program.is_started())
        {
            let ended = program.ended();
            assert!(ended.is_none(), "{name} ended by itself: {ended:?}");
        }
    }
}

/// A client that begins each request on a connection of its own: one that was kept may belong to a
/// program that was killed since, and what then fails is no fault of the new one.
pub(crate) fn client(timeout: Duration) -> Client {
    let client = nudge_runtime::tls::http().pool_max_idle_per_host(0);
    client.timeout(timeout).build().expect("a client")
}

/// Waits for something that must come.
pub(crate) async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("never happened: {what}"))
}
