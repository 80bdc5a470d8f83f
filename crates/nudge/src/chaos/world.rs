//! The demo's programs, the lines between them, and what is known about both.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use nudge_runtime::Broker;
use nudge_testbed::{
    Comparison, Program,
    compare::Asked,
    nats,
    ports::Ports,
    program::{Guard, Output, STOP_PATIENCE},
};
use reqwest::Method;
use tokio::sync::Mutex;

use super::{
    database::Server,
    lines::Lines,
    plan::{Cast, Place, Target, Who},
};
use crate::{client::Api, dev::data_dir::DataDir, failure::Failure, peers::Peer};

mod make;

/// Time allowed for everything to become ready at the start.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Least time between two starts of a program that ended by itself.
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
/// Most surprises that are reported.
const MAX_SURPRISES: usize = 50;
/// Most panics of one program that are reported.
const MAX_PANICS: usize = 5;

/// See the module documentation.
pub(super) struct World {
    pub(super) data: DataDir,
    guard: Guard,
    programs: BTreeMap<Place, Mutex<Program>>,
    pub(super) lines: Lines,
    /// None with SQLite.
    server: Option<Server>,
    pub(super) cast: Cast,
    /// One entry per replica of the services, in order; at least one.
    pub(super) apis: Vec<Api>,
    _ports: Ports,
    /// Directly to NATS, not through a line.
    pub(super) broker: Broker,
    /// The plan's.
    pub(super) seed: u64,
    surprises: parking_lot::Mutex<Vec<String>>,
    broken: parking_lot::Mutex<Vec<String>>,
}

/// A program that follows something, and its address.
#[derive(Clone, Debug)]
pub(super) struct Subscriber<'a> {
    pub(super) name: String,
    pub(super) who: Who,
    pub(super) api: &'a Api,
    pub(super) peer: Peer,
}

impl World {
    /// Starts everything, and waits until it is ready.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        for program in self.programs.values() {
            start(&mut *program.lock().await).map_err(Failure::Failed)?;
        }
        let ready = async {
            while !nats::is_ready(&self.broker).await {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            for api in &self.apis {
                for peer in api.peers() {
                    while !is_ready(api, *peer).await {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                }
            }
        };
        let logs = self.data.logs();
        tokio::time::timeout(START_PATIENCE, ready).await.map_err(|_| {
            Failure::failed(format!("the programs did not become ready: see {}", logs.display()))
        })
    }

    /// All programs that follow something: stores, all of them.
    pub(super) fn subscribers(&self) -> Vec<Subscriber<'_>> {
        let of = |who: Who| {
            self.replicas().map(move |(replica, api)| {
                let place = Place { on: Target::Program(who), replica };
                Subscriber { name: place.to_string(), who, api, peer: peer(api, who) }
            })
        };
        self.cast.subscribers().flat_map(of).collect()
    }

    /// The number of each replica, and the addresses of its services.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (u64, &Api)> + Clone {
        (1..).zip(&self.apis)
    }

    /// Whether all services agree.
    pub(super) fn comparison(&self) -> Comparison {
        let of = |who: Who| {
            self.replicas().map(move |(replica, api)| Asked {
                name: Place { on: Target::Program(who), replica }.to_string(),
                service: match who {
                    Who::Demo(service) => Some(service),
                    Who::Guest(_) => None,
                },
                url: peer(api, who).url().to_owned(),
            })
        };
        Comparison::new(self.cast.everyone().flat_map(of).collect())
    }

    /// The program at a place that is not a line.
    pub(super) fn program(&self, at: Place) -> Result<&Mutex<Program>, String> {
        self.programs.get(&at).ok_or_else(|| format!("{at} is not a program"))
    }

    /// The broker.
    pub(super) fn nats(&self) -> &Mutex<Program> {
        &self.programs[&Place::first(Target::Nats)]
    }

    /// The database server.
    pub(super) fn server(&self) -> Result<&Server, String> {
        self.server.as_ref().ok_or_else(|| "there is no database server".to_owned())
    }

    /// Records and restarts programs that ended by themselves. Returns how many starts failed because
    /// the database was away, which is not a surprise.
    pub(super) async fn revive(&self) -> u64 {
        let mut failed_starts = 0;
        for program in self.programs.values() {
            // One to which something is being done just now is looked at later.
            let Ok(mut program) = program.try_lock() else { continue };
            let started = program.started();
            if let Some(status) = revive(&mut program) {
                // A service ends so only while it starts.
                let away = self.server.as_ref().is_some_and(|server| server.was_away(started));
                if away && status.code() == Some(1) {
                    failed_starts += 1;
                    continue;
                }
                let (name, log) = (&program.launch().name, log_of(&program).display());
                self.surprise(format!("{name} ended by itself ({status}); see {log}"));
            }
        }
        failed_starts
    }

    /// Records something that should not have happened.
    pub(super) fn surprise(&self, what: String) {
        let mut surprises = self.surprises.lock();
        if surprises.len() < MAX_SURPRISES {
            surprises.push(what);
        }
    }

    /// Records panics: a panic in a task ends no program, and everything may converge in spite of it.
    pub(super) async fn note_panics(&self) {
        for program in self.programs.values() {
            let program = program.lock().await;
            let Ok(log) = File::open(log_of(&program)) else { continue };
            let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
            for line in lines.filter(|line| is_panic(line)).take(MAX_PANICS) {
                let line = String::from_utf8_lossy(&line).into_owned();
                self.surprise(format!("{}: {line}", program.launch().name));
            }
        }
    }

    /// What should not have happened.
    pub(super) fn surprises(&self) -> Vec<String> {
        self.surprises.lock().clone()
    }

    /// Records that the run itself failed, so that it has tested nothing.
    pub(super) fn broke(&self, what: String) {
        self.broken.lock().push(what);
    }

    /// What the run itself failed to do.
    pub(super) fn broken(&self) -> Vec<String> {
        self.broken.lock().clone()
    }

    /// Ends all active faults.
    pub(super) async fn heal(&self) {
        self.lines.heal();
        if let Some(server) = &self.server
            && let Err(why) = server.end().await
        {
            self.broke(format!("the database server: {why}"));
        }
        for program in self.programs.values() {
            let mut program = program.lock().await;
            program.thaw();
            // Where that cannot be done, it was not done before either.
            let _ = program.set_disk_full(false);
            if !program.is_started()
                && let Err(why) = start(&mut program)
            {
                self.broke(why);
            }
        }
    }

    /// Stops everything, services before what they depend on.
    pub(super) async fn stop(&self) {
        if let Some(server) = &self.server {
            server.thaw().await;
        }
        let services = self.programs.iter().filter(|(at, _)| at.on != Target::Nats);
        let stop = async |program: &Mutex<Program>| {
            program.lock().await.stop(STOP_PATIENCE).await;
        };
        let stops = services.map(|(_, program)| stop(program));
        futures_util::future::join_all(stops).await;
        stop(self.nats()).await;
        if let Some(server) = &self.server {
            server.stop().await;
        }
        self.guard.finish();
    }
}

/// Where a service of this replica listens.
fn peer(api: &Api, who: Who) -> Peer {
    let named = api.peers().iter().find(|peer| peer.name() == who.name());
    *named.expect("whoever takes part has an address")
}

/// Starts a program.
pub(super) fn start(program: &mut Program) -> Result<(), String> {
    let started = program.start();
    started.map_err(|error| format!("{} cannot be started: {error}", program.launch().name))
}

/// How a program ended, if it ended by itself. It is then restarted.
fn revive(program: &mut Program) -> Option<ExitStatus> {
    let status = program.ended()?;
    if program.started().elapsed() < MIN_RESTART_DELAY {
        return None;
    }
    // If this fails, the next look tries again: the ended process is still known.
    let _ = program.start();
    Some(status)
}

/// Where a program's output goes.
fn log_of(program: &Program) -> &Path {
    match &program.launch().output {
        Output::Log(path) => path,
        Output::Nowhere | Output::Ours => unreachable!("each has a log"),
    }
}

async fn is_ready(api: &Api, peer: Peer) -> bool {
    let request = api.request(Method::GET, peer, "/readyz");
    api.expect(peer, request.timeout(Duration::from_secs(2))).await.is_ok()
}

/// Whether a line of a log is the first that a panic prints.
fn is_panic(line: &[u8]) -> bool {
    let words = b" panicked at ";
    line.windows(words.len()).any(|window| window == words)
}

#[cfg(test)]
mod tests;
