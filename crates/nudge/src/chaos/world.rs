//! The demo's programs, the lines between them, and what is known of both.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex as StdMutex},
    time::{Duration, Instant},
};

use nudge_runtime::Broker;
use reqwest::Method;
use tokio::sync::Mutex;

use super::{
    database::Server,
    disturb::Counts,
    line::Line,
    plan::{Target, Way},
    process::Program,
};
use crate::{
    client::{Api, Service},
    dev::{data_dir::DataDir, find_services, guard::Guard, nats},
    failure::Failure,
};

/// Below the ports that systems hand out by themselves: one from there could be taken by any
/// connection while its program is away.
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 18_000;
/// A prime, so that runs that begin together look in different places.
const STRIDE: u32 = 7_919;
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
    programs: BTreeMap<Target, Mutex<Program>>,
    lines: BTreeMap<Target, Line>,
    /// None with SQLite.
    server: Option<Server>,
    pub(super) api: Api,
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
    /// Prepares everything; nothing runs yet but the lines.
    pub(super) async fn new(
        exe: &Path,
        nats_exe: PathBuf,
        data: DataDir,
        server: Option<Server>,
        seed: u64,
    ) -> Result<Self, Failure> {
        let services = find_services(exe)?;
        data.prepare()?;
        let [nats_port, owner, search, review] = free_ports()?;
        let counts = Arc::<Counts>::default();
        let mut lines = BTreeMap::new();
        for on in Target::LINES {
            let (port, notifications) = match on {
                Target::StoreInfoToNats => (nats_port, Some(Way::There)),
                Target::SearchToNats | Target::ReviewToNats => (nats_port, Some(Way::Back)),
                _ => (owner, None),
            };
            let seed = seed.wrapping_add(on as u64);
            lines.insert(on, Line::to(port, notifications, seed, counts.clone()).await?);
        }
        let url = format!("nats://127.0.0.1:{nats_port}");
        let broker = Broker::connect(&url, "nudge-chaos").await;
        let broker =
            broker.map_err(|error| Failure::failed(nudge_runtime::problem::chain(&error)))?;
        let guard = Guard::start(exe, &data)?;
        let mut world = Self {
            data,
            guard,
            programs: BTreeMap::new(),
            lines,
            server,
            api: Api::with_ports([owner, search, review]),
            broker,
            counts,
            surprises: StdMutex::default(),
        };
        world.add_nats(nats_exe, nats_port);
        for (service, exe) in services {
            world.add_service(service, exe)?;
        }
        Ok(world)
    }

    fn add_nats(&mut self, exe: PathBuf, port: u16) {
        let mut args: Vec<_> = ["--addr", "127.0.0.1", "--port"].map(Into::into).to_vec();
        args.extend([port.to_string().into(), "--jetstream".into(), "--store_dir".into()]);
        args.extend([self.data.nats().into_os_string(), "--name".into(), "nudge-chaos".into()]);
        self.add(Target::Nats, "NATS", exe, args, Vec::new());
    }

    fn add_service(&mut self, service: Service, exe: PathBuf) -> Result<(), Failure> {
        let (on, to_nats, to_owner) = match service {
            Service::StoreInfo => (Target::StoreInfo, Target::StoreInfoToNats, None),
            Service::Search => {
                (Target::Search, Target::SearchToNats, Some(Target::SearchToStoreInfo))
            }
            Service::Review => {
                (Target::Review, Target::ReviewToNats, Some(Target::ReviewToStoreInfo))
            }
        };
        let database_url = match &self.server {
            Some(server) => server.database_url(service),
            None => self.data.database_url(service)?,
        };
        let mut env = vec![
            ("DATABASE_URL", database_url),
            ("NATS_URL", format!("nats://{}", self.lines[&to_nats].address())),
            ("BIND", self.api.address(service)),
        ];
        match to_owner {
            Some(line) => {
                env.push(("STORE_OWNER_URL", format!("http://{}", self.lines[&line].address())));
            }
            None => env.push(("SAMPLE", "false".to_owned())),
        }
        self.add(on, service.name(), exe, Vec::new(), env);
        Ok(())
    }

    fn add(
        &mut self,
        on: Target,
        name: &'static str,
        exe: PathBuf,
        args: Vec<std::ffi::OsString>,
        env: Vec<(&'static str, String)>,
    ) {
        let log = self.data.logs().join(format!("{}.log", name.to_lowercase()));
        let (guard, last) = (self.guard.clone(), on == Target::Nats);
        let (child, guarded, started) = (None, None, Instant::now());
        let program = Program { name, exe, args, env, log, guard, last, child, guarded, started };
        self.programs.insert(on, Mutex::new(program));
    }

    /// Starts everything, and waits until it is ready.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        for program in self.programs.values() {
            program.lock().await.start().map_err(Failure::Failed)?;
        }
        let ready = async {
            while !nats::is_ready(&self.broker).await {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            for service in Service::ALL {
                while !self.is_ready(service).await {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        };
        let logs = self.data.logs();
        tokio::time::timeout(START_PATIENCE, ready).await.map_err(|_| {
            Failure::failed(format!("the programs do not get ready: see {}", logs.display()))
        })
    }

    async fn is_ready(&self, service: Service) -> bool {
        let request = self.api.request(Method::GET, service, "/readyz");
        self.api.expect(service, request.timeout(Duration::from_secs(2))).await.is_ok()
    }

    /// All that follow stores.
    pub(super) fn subscribers(&self) -> Vec<Subscriber<'_>> {
        let subscriber = |service: Service| {
            let (name, api) = (service.name().to_owned(), &self.api);
            Subscriber { name, service, api }
        };
        Service::SUBSCRIBERS.map(subscriber).into()
    }

    /// A program. Only for what this is: lines have none.
    pub(super) fn program(&self, on: Target) -> Result<&Mutex<Program>, String> {
        self.programs.get(&on).ok_or_else(|| format!("{on} is no program"))
    }

    /// A line.
    pub(super) fn line(&self, on: Target) -> Result<&Line, String> {
        self.lines.get(&on).ok_or_else(|| format!("{on} is no line"))
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
        let services = self.programs.iter().filter(|(on, _)| **on != Target::Nats);
        let stops = services.map(|(_, program)| async { program.lock().await.stop().await });
        futures_util::future::join_all(stops).await;
        if let Ok(nats) = self.program(Target::Nats) {
            nats.lock().await.stop().await;
        }
        if let Some(server) = &self.server {
            server.stop().await;
        }
        self.guard.finish();
    }
}

/// Whether a line of a log is the first that a panic prints.
fn is_panic(line: &[u8]) -> bool {
    let words = b" panicked at ";
    line.windows(words.len()).any(|window| window == words)
}

/// Ports that are free now, all different.
fn free_ports() -> Result<[u16; 4], Failure> {
    let start = std::process::id().wrapping_mul(STRIDE);
    let port = |n: u32| (FIRST_PORT + start.wrapping_add(n) % PORTS) as u16;
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let found: Vec<u16> = (0..PORTS).map(port).filter(free).take(4).collect();
    found.try_into().map_err(|_| Failure::failed("no ports are free"))
}

#[cfg(test)]
mod tests;
