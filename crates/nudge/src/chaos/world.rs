//! The demo's programs, the lines between them, and what is known of both.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    sync::{Arc, Mutex as StdMutex},
    time::Duration,
};

use nudge_runtime::Broker;
use reqwest::Method;
use tokio::sync::Mutex;

use super::{
    database::Server,
    disturb::Counts,
    line::Line,
    plan::{Place, Target},
    ports::Ports,
    process::Program,
};
use crate::{
    client::{Api, Service},
    dev::{data_dir::DataDir, guard::Guard, nats},
    failure::Failure,
};

mod make;

/// Longest time that everything may take to be ready at the start.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Most surprises that are told.
const MAX_SURPRISES: usize = 50;
/// Most panics of one program that are told.
const MAX_PANICS: usize = 5;

/// See the module's description.
pub(super) struct World {
    pub(super) data: DataDir,
    guard: Guard,
    programs: BTreeMap<Place, Mutex<Program>>,
    lines: BTreeMap<Place, Line>,
    /// None with SQLite.
    server: Option<Server>,
    /// Of each replica of the services, in their order; there is at least one.
    pub(super) apis: Vec<Api>,
    _ports: Ports,
    /// Straight to NATS, by no line.
    pub(super) broker: Broker,
    pub(super) counts: Arc<Counts>,
    surprises: StdMutex<Vec<String>>,
}

/// One that follows stores, and where it is asked.
#[derive(Clone, Debug)]
pub(super) struct Subscriber<'a> {
    pub(super) name: String,
    pub(super) service: Service,
    pub(super) api: &'a Api,
}

impl World {
    /// Starts everything, and waits until it is ready.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        for program in self.programs.values() {
            program.lock().await.start().map_err(Failure::Failed)?;
        }
        let ready = async {
            while !nats::is_ready(&self.broker).await {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            for api in &self.apis {
                for service in Service::ALL {
                    while !is_ready(api, service).await {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
        };
        let logs = self.data.logs();
        tokio::time::timeout(START_PATIENCE, ready).await.map_err(|_| {
            Failure::failed(format!("the programs do not get ready: see {}", logs.display()))
        })
    }

    /// All that follow stores.
    pub(super) fn subscribers(&self) -> Vec<Subscriber<'_>> {
        let of = |service: Service| {
            self.replicas().map(move |(replica, api)| {
                let place = Place { on: Target::of(service).0, replica };
                Subscriber { name: place.to_string(), service, api }
            })
        };
        Service::SUBSCRIBERS.into_iter().flat_map(of).collect()
    }

    /// The number of each replica, and where its services are asked.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (u64, &Api)> + Clone {
        (1..).zip(&self.apis)
    }

    /// A program. Only for what this is: lines have none.
    pub(super) fn program(&self, at: Place) -> Result<&Mutex<Program>, String> {
        self.programs.get(&at).ok_or_else(|| format!("{at} is no program"))
    }

    /// The broker.
    pub(super) fn nats(&self) -> &Mutex<Program> {
        &self.programs[&Place::first(Target::Nats)]
    }

    /// A line.
    pub(super) fn line(&self, at: Place) -> Result<&Line, String> {
        self.lines.get(&at).ok_or_else(|| format!("{at} is no line"))
    }

    /// The database server.
    pub(super) fn server(&self) -> Result<&Server, String> {
        self.server.as_ref().ok_or_else(|| "there is no database server".to_owned())
    }

    /// Notes and starts again what has ended by itself. Returns how many starts have failed because
    /// the database was away, which is no surprise.
    pub(super) async fn revive(&self) -> u64 {
        let mut failed_starts = 0;
        for program in self.programs.values() {
            // One to which something is being done just now is looked at later.
            let Ok(mut program) = program.try_lock() else { continue };
            let started = program.started;
            if let Some(status) = program.revive() {
                // A service ends so only while it starts.
                let away = self.server.as_ref().is_some_and(|server| server.was_away(started));
                if away && status.code() == Some(1) {
                    failed_starts += 1;
                    continue;
                }
                let log = program.log.display().to_string();
                self.surprise(format!("{} ended by itself ({status}), see {log}", program.name));
            }
        }
        failed_starts
    }

    /// Notes something that should not have happened.
    pub(super) fn surprise(&self, what: String) {
        let mut surprises = self.surprises.lock().unwrap_or_else(|e| e.into_inner());
        if surprises.len() < MAX_SURPRISES {
            surprises.push(what);
        }
    }

    /// Notes panics: one in a task ends no program, and all may converge in spite of it.
    pub(super) async fn note_panics(&self) {
        for program in self.programs.values() {
            let program = program.lock().await;
            let Ok(log) = File::open(&program.log) else { continue };
            let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
            for line in lines.filter(|line| is_panic(line)).take(MAX_PANICS) {
                let line = String::from_utf8_lossy(&line).into_owned();
                self.surprise(format!("{}: {line}", program.name));
            }
        }
    }

    /// What should not have happened.
    pub(super) fn surprises(&self) -> Vec<String> {
        self.surprises.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Ends whatever faults are still under way.
    pub(super) async fn heal(&self) {
        for line in self.lines.values() {
            line.set(|trouble| *trouble = Default::default());
        }
        if let Some(server) = &self.server
            && let Err(why) = server.end().await
        {
            self.surprise(format!("the database server: {why}"));
        }
        for program in self.programs.values() {
            let mut program = program.lock().await;
            program.thaw();
            // Where that cannot be done, it was not done before either.
            let _ = program.set_disk_full(false);
            if program.child.is_none()
                && let Err(why) = program.start()
            {
                self.surprise(why);
            }
        }
    }

    /// Stops everything, the services before those that they need.
    pub(super) async fn stop(&self) {
        if let Some(server) = &self.server {
            server.thaw().await;
        }
        let services = self.programs.iter().filter(|(at, _)| at.on != Target::Nats);
        let stops = services.map(|(_, program)| async { program.lock().await.stop().await });
        futures_util::future::join_all(stops).await;
        self.nats().lock().await.stop().await;
        if let Some(server) = &self.server {
            server.stop().await;
        }
        self.guard.finish();
    }
}

async fn is_ready(api: &Api, service: Service) -> bool {
    let request = api.request(Method::GET, service, "/readyz");
    api.expect(service, request.timeout(Duration::from_secs(2))).await.is_ok()
}

/// Whether a line of a log is the first that a panic prints.
fn is_panic(line: &[u8]) -> bool {
    let words = b" panicked at ";
    line.windows(words.len()).any(|window| window == words)
}

#[cfg(test)]
mod tests;
