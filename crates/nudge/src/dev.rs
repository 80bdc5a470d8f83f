//! `nudge dev`: everything on this machine, in the foreground, until Ctrl-C.
//!
//! ```text
//! lock the data directory ► check the ports ► guard ► NATS ► the services ► console
//!                                                         and back again when it stops
//! ```
//!
//! With `--database-url` there is a step after the ports: lock the database, and make the schemas.

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use nudge_runtime::{
    Broker, files, private,
    secret::{self, Secret},
    serve, traces,
};
use nudge_testbed::program::{Guard, Launch, Output};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    data_dir::DataDir,
    postgres::Postgres,
    supervisor::{Kept, supervise},
    talk::Talk,
    tokens::{Access, Tokens},
    welcome::{Welcome, called, kept_in},
};
use crate::{
    chaos::{
        drawer::{Drawer, Handle},
        lines::Lines,
    },
    client::{Api, Service},
    console,
    failure::Failure,
    output,
    peers::{self, Also, Peer},
    service, signals,
};

pub(crate) mod data_dir;
pub(crate) mod guard;
pub(crate) mod nats;
mod ports;
pub(crate) mod postgres;
mod supervisor;
pub(crate) mod talk;
pub(crate) mod tokens;
mod welcome;

/// Interval between checks of whether everything is ready.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// Arguments of `nudge dev`.
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// Start with empty data: delete what an earlier `nudge dev` left in the data directory and in
    /// the database of --database-url
    #[arg(long)]
    fresh: bool,
    /// Directory for data and logs
    #[arg(long, env = "NUDGE_DATA_DIR", value_name = "DIR", default_value = ".nudge")]
    data_dir: PathBuf,
    /// Keep the services' data in this PostgreSQL database, postgres://USER@HOST/NAME, each in its
    /// own schema, instead of in SQLite files in the data directory
    #[arg(long, env = "NUDGE_DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = secret::given(secret::any))]
    database_url: Option<Secret>,
    /// File with that URL
    #[arg(long, env = "NUDGE_DATABASE_URL_FILE", value_name = "PATH", value_parser = secret::in_file(secret::any), conflicts_with = "database_url")]
    database_url_file: Option<Secret>,
    /// Do not load the sample stores on the first start
    #[arg(long)]
    no_sample: bool,
    /// Offer the chaos drawer: break things by hand, on the console page or by `nudge break`, and heal them
    #[arg(long)]
    chaos: bool,
    /// Answer only requests with a token. The key that signs them, and a token for each program, are in the data directory
    #[arg(long)]
    auth: bool,
    /// For tests: the program that runs the services in place of this one, called with `service NAME`
    #[arg(long, value_name = "PROGRAM", hide = true)]
    services: Option<PathBuf>,
}

/// Runs until told to stop.
pub(crate) async fn run(port_base: u16, also: &Also, args: DevArgs) -> Result<(), Failure> {
    let began = Instant::now();
    private::keep_new_files();
    files::allow_many();
    let stop = signals::stop();
    let talk = Talk::new();
    let mut peers = Api::new(port_base).peers().to_vec();
    peers::merge(&mut peers, also.peers()?);
    let database_url = args.database_url.as_ref().or(args.database_url_file.as_ref());
    let database_url = database_url.map(|url| postgres::parse(url.expose())).transpose()?;
    let exe = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find this program's own path: {error}"))
    })?;
    let nats_exe = tokio::select! {
        found = nats::find(&exe, &talk) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    let data = DataDir::lock(&args.data_dir, args.fresh)?;
    ports::check_free(port_base)?;
    if database_url.is_some() {
        talk.doing("connecting to PostgreSQL");
    }
    let prepared = stop.run_until_cancelled(prepare(&data, database_url, args.fresh)).await;
    talk.done();
    let Some(postgres) = prepared.transpose()? else {
        return Ok(());
    };
    let lines = match args.chaos {
        true => Some(Lines::of_the_demo(port_base, ports::nats(port_base)).await?),
        false => None,
    };
    let tokens = args.auth.then(|| Tokens::prepare(&data)).transpose()?;
    let services_exe = args.services.as_ref().unwrap_or(&exe);
    let traces = trace_settings(&talk);
    let mut services = Vec::new();
    for service in Service::ALL {
        let database_url = match &postgres {
            Some(postgres) => postgres.service_url(service),
            None => data.database_url(service.name())?,
        };
        let log = Output::Log(data.logs().join(format!("{}.log", service.name())));
        let mut launch = service::launch(service, services_exe, log);
        let sample = !args.no_sample;
        launch.env = service_env(service, port_base, database_url, sample, lines.as_ref());
        launch.env.extend(traces.iter().cloned());
        launch.env.push(nats::login(&data.keys(), service));
        launch.env.extend(tokens.iter().flat_map(|tokens| tokens.settings(service.name())));
        services.push(launch);
    }
    nats::permit(&data.keys())?;
    let broker = nats::connect(&data.keys(), &nats::url(port_base), "nudge-dev").await?;
    let guard = guard::start(&exe, &data)?;
    let kept = kept_in(&data, postgres.as_ref());
    let keep = postgres.map(|postgres| tokio::spawn(postgres.keep(talk.clone())));
    let _lock_of_the_database = keep.map(AbortOnDropHandle::new);
    let access = tokens.map(|tokens| tokens.access(port_base, &talk)).transpose()?;
    let access = access.unwrap_or_default();
    let demo = Demo { port_base, peers, broker, guard, talk, stop, kept, access };
    let nats = nats::launch(&nats_exe, port_base, &data);
    let result = demo.run(nats, services, lines, &exe, began).await;
    demo.talk.done();
    demo.guard.finish();
    result
}

/// Prepares the services' storage: the directory, and the schemas if there is a database. Whatever
/// must be refused is refused before anything is deleted.
async fn prepare(
    data: &DataDir,
    database_url: Option<reqwest::Url>,
    fresh: bool,
) -> Result<Option<Postgres>, Failure> {
    let mut postgres = match database_url {
        Some(url) => Some(Postgres::lock(url).await?),
        None => None,
    };
    if !fresh {
        let database = postgres.as_ref().map_or(Some(data_dir::SQLITE), Postgres::mark);
        data.check_belongs_to(database)?;
    }
    if let Some(postgres) = &mut postgres {
        postgres.prepare(fresh).await?;
    }
    if fresh {
        data.clear()?;
    }
    data.prepare()?;
    if let Some(mark) = postgres.as_ref().and_then(Postgres::mark) {
        data.give_to(mark)?;
    }
    Ok(postgres)
}

struct Demo {
    port_base: u16,
    /// Its services, and others that the console shows.
    peers: Vec<Peer>,
    broker: Broker,
    guard: Guard,
    talk: Talk,
    stop: CancellationToken,
    /// Where the data is, as text for people.
    kept: String,
    access: Access,
}

impl Demo {
    async fn run(
        &self,
        nats: Launch,
        services: Vec<Launch>,
        lines: Option<Lines>,
        exe: &Path,
        began: Instant,
    ) -> Result<(), Failure> {
        let address = ([127, 0, 0, 1], self.port_base).into();
        let listener = serve::bind(address)
            .await
            .map_err(|error| Failure::failed(nudge_runtime::problem::chain(&error)))?;
        let kept = |launch| Kept::new(launch, &self.guard);
        let (nats, services) = (kept(nats), services.into_iter().map(kept).collect::<Vec<_>>());
        let restarts = services.iter().chain([&nats]);
        let restarts = restarts.map(|kept| (kept.name().to_owned(), kept.restarts())).collect();
        let api = Api::new(self.port_base).with(self.peers.clone());
        let chaos = lines.is_some();
        let operator = api.clone().signing(&self.access.operator);
        let drawer = lines.map(|lines| self.drawer(lines, &services, operator, exe));
        let keep = drawer.clone().map(|drawer| tokio::spawn(drawer.keep()));
        let _keep = keep.map(AbortOnDropHandle::new);
        let broker = Some(self.broker.clone());
        let state = console::Console::new(api, broker, restarts, drawer, self.stop.clone());
        let state = state.answering(self.access.login.clone());
        let router = console::router(state.clone());
        let console = tokio::spawn(serve::serve(listener, router, self.stop.clone()));

        let (stop_services, stop_nats) = (CancellationToken::new(), CancellationToken::new());
        let mut nats_task = JoinSet::new();
        self.spawn(&mut nats_task, nats, &stop_nats);
        let mut service_tasks = JoinSet::new();
        let up = async {
            nats::wait_ready(&self.broker, &self.talk).await;
            if let Err(error) = nats::remove_former_consumers(&self.broker).await {
                self.talk.say(&format!(
                    "dev: cannot remove the consumers of an earlier release: {error}"
                ));
            }
            for service in services {
                self.spawn(&mut service_tasks, service, &stop_services);
            }
            self.wait_ready(&state).await;
        };
        let result = tokio::select! {
            () = up => {
                self.talk.done();
                let (port_base, kept, ways_in) = (self.port_base, &self.kept, &self.access.ways_in);
                let welcome = Welcome { exe, port_base, kept, chaos, ways_in: ways_in.as_ref() };
                // Whoever has closed our output does not want us to stop.
                match welcome.lines(began.elapsed()).iter().try_for_each(output::line) {
                    Ok(()) | Err(Failure::OutputClosed) => {
                        self.stop.cancelled().await;
                        Ok(())
                    }
                    failed => failed,
                }
            }
            () = self.stop.cancelled() => Ok(()),
        };

        self.stop.cancel();
        self.talk.doing("stopping the services");
        stop_services.cancel();
        service_tasks.join_all().await;
        self.talk.doing("stopping NATS");
        stop_nats.cancel();
        nats_task.join_all().await;
        let _ = console.await;
        self.talk.done();
        self.talk.say("dev: stopped; the data is kept");
        result
    }

    fn drawer(&self, lines: Lines, services: &[Kept], api: Api, exe: &Path) -> Drawer {
        let handle = |kept: &Kept| {
            let service = Service::named(kept.name()).expect("it is one of the demo's");
            let url = kept.launch().env.iter().find(|(name, _)| *name == "DATABASE_URL");
            let database_url = url.expect("each has a database").1.clone();
            (service, Handle { down: kept.down(), database_url })
        };
        let services = services.iter().map(handle).collect();
        Drawer::new(lines, services, api, called(exe, self.port_base))
    }

    fn spawn(&self, tasks: &mut JoinSet<()>, kept: Kept, stop: &CancellationToken) {
        tasks.spawn(supervise(kept, stop.clone(), self.talk.clone()));
    }

    async fn wait_ready(&self, console: &console::Console) {
        loop {
            let states = console.look().await;
            let waiting = states.iter().filter(|state| state.is_missing()).map(|state| state.name);
            let waiting: Vec<_> = waiting.collect();
            if waiting.is_empty() {
                return;
            }
            self.talk.doing(&format!("waiting for {}", waiting.join(", ")));
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }
}

/// Our own settings for traces, which many a developer has for all programs. Services that cannot send any would refuse them.
fn trace_settings(talk: &Talk) -> Vec<(&'static str, String)> {
    let set = traces::VARIABLES.into_iter().filter_map(|name| Some((name, env::var(name).ok()?)));
    let set: Vec<_> = set.collect();
    match set.first() {
        Some((name, _)) if !cfg!(feature = "otlp") => {
            talk.say(&format!("dev: {name} is set, but this program is built without `--features otlp`: no traces are sent"));
            Vec::new()
        }
        _ => set,
    }
}

/// The environment of a service, which reaches NATS and other services by its lines, if there are any.
fn service_env(
    service: Service,
    port_base: u16,
    database_url: String,
    sample: bool,
    lines: Option<&Lines>,
) -> Vec<(&'static str, String)> {
    let bind = ("BIND", format!("127.0.0.1:{}", service.port(port_base)));
    let mut env = vec![("DATABASE_URL", database_url), bind];
    env.extend(match lines {
        Some(lines) => lines.settings_of(service),
        None => {
            let asks = service.asks().iter();
            let asks = asks.map(|(setting, other)| (*setting, other.url(port_base)));
            asks.chain([("NATS_URL", nats::url(port_base))]).collect()
        }
    });
    if service == Service::StoreInfo {
        env.push(("SAMPLE", sample.to_string()));
    }
    env
}

#[cfg(test)]
mod tests;
