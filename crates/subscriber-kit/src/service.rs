//! A complete service: its settings, its parts, its `main`.

use std::{
    collections::HashMap, env, ffi::OsString, future::Future, net::SocketAddr, num::NonZeroU32,
    pin::Pin, process::ExitCode, sync::Arc,
};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use nudge_runtime::{
    BoxError, Broker, Database,
    alerts::Alerts,
    args::{OwnerArgs, ServiceArgs, address, http_url},
    auth::{Admission, Credentials},
    database::{Durability, Migration},
    openapi, program, tls,
    traces::Traces,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    apply::Apply,
    http::openapi::{health, routes, waits},
    subscriber::{Builder, Subscriber},
};

/// The setting for the address to listen on.
const BIND: &str = "bind";
/// The setting for how much of its owners' time comparing may take.
const RESYNC_PERCENT: &str = "resync-percent";

/// The setting for how much its subscribers may ask for, as [`OwnerArgs`] defines it.
const CALLBACK_BUDGET: &str = "callback_budget";

/// The setting that makes it ready only once it was found equal to its owners.
const READY_WHEN_EQUAL: &str = "ready-when-equal";

type Add = Box<dyn FnOnce(Builder, &str) -> Builder + Send>;
type Configure = Box<dyn FnOnce(Builder) -> Builder + Send>;
type PartFuture = Pin<Box<dyn Future<Output = Result<OpenApiRouter, BoxError>> + Send>>;
type Part = Box<dyn FnOnce(Started) -> PartFuture + Send>;

struct Follow {
    entity: &'static str,
    /// The setting for the owner's URL.
    setting: String,
    add: Add,
}

/// A service that follows entities of others, owns some, or both: its name, what it follows and what it serves. It
/// provides everything that such a program needs: settings from flags and the environment, logs, a database, NATS, health
/// checks, metrics, an OpenAPI document and a graceful shutdown.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use nudge_subscriber_kit::{Mirror, Service, axum::{Router, routing::get}};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Store { name: String }
///
/// fn main() -> ExitCode {
///     Service::new("names")
///         .follow("store", "http://127.0.0.1:7101", Mirror::<Store>::table("store"))
///         .routes(Router::new().route("/hello", get(async || "hello")), |_| ())
///         .run()
/// }
/// ```
///
/// | setting | meaning | default |
/// |---|---|---|
/// | `DATABASE_URL` | `sqlite:PATH` or `postgres://…` | none, it must be set |
/// | `BIND` | the address to listen on; other than loopback only with `AUTH_ISSUER`, and TLS (`TLS_CERT_FILE`) or `BEHIND_PROXY` | from [`listen`](Self::listen), otherwise a free port |
/// | `STORE_OWNER_URL` | the owner of `store`; there is one setting per entity | from [`follow`](Self::follow) |
/// | `SEARCH_URL` | the service `search`; there is one setting per service that this one calls | from [`calls`](Self::calls) |
/// | `RESYNC_PERCENT` | how much of its owners' time comparing with them may take; 0 switches it off | 1 |
/// | `READY_WHEN_EQUAL` | `true`: ready only once it was found equal to its owners, to build a read model anew beside the one that serves | `false` |
/// | `CALLBACK_BUDGET` | of an owner: how many entities a second all its subscribers together may ask for | no limit |
/// | `NATS_URL`, … | the broker and its credentials | `nats://127.0.0.1:7122` |
/// | `ALERT_WEBHOOK_URL`, `ALERT_SUBJECT` | where to tell an operator what needs one: see [`nudge_runtime::alerts`] | nowhere |
/// | `AUTH_ISSUER`, … | whose tokens are asked for, and the service's own: see [`nudge_runtime::auth`] | nobody's |
/// | `TLS_CERT_FILE`, … | the program's certificate, and whose it trusts: see [`nudge_runtime::tls`] | none; those that the system trusts |
/// | `OTEL_EXPORTER_OTLP_ENDPOINT`, … | where to send traces: see [`nudge_runtime::traces`] | nowhere |
/// | `LOG`, `LOG_FORMAT` | what to log, and how: text on a terminal, otherwise JSON | `info`, `auto` |
///
/// Each is also a flag, such as `--database-url`; `--help` lists them.
#[must_use]
pub struct Service {
    name: &'static str,
    command: Command,
    about: OpenApi,
    documents: Vec<OpenApi>,
    data: Option<(&'static str, &'static [Migration])>,
    follows: Vec<Follow>,
    calls: Vec<&'static str>,
    reads: Vec<&'static str>,
    configure: Vec<Configure>,
    parts: Vec<Part>,
}

/// What a service's own parts have at hand when they start. Cloning is cheap.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Started {
    /// The service's database.
    pub database: Database,
    /// The connection to NATS.
    pub broker: Broker,
    /// The subscriber that follows the entities.
    pub subscriber: Subscriber,
    /// What an operator is told of.
    pub alerts: Alerts,
    /// The service's own token, for requests to others.
    pub credentials: Credentials,
    /// Where traces go.
    pub traces: Traces,
    /// For the publisher of a service that [owns](Service::owns) something: how many entities a second its subscribers may
    /// ask for.
    pub callback_budget: Option<NonZeroU32>,
    /// Cancelled when the service should stop.
    pub stop: CancellationToken,
    urls: Arc<HashMap<&'static str, String>>,
    tasks: TaskTracker,
}

impl Started {
    /// The base URL of a service that this one [calls](Service::calls), without a slash at its end.
    ///
    /// # Panics
    /// If it calls no service of this name.
    pub fn url(&self, name: &str) -> &str {
        self.urls.get(name).unwrap_or_else(|| panic!("`calls` names no service {name:?}"))
    }

    /// Spawns a task, which must end once [`stop`](Self::stop) is cancelled. The database is closed only after that.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

/// A running service.
#[derive(Debug)]
#[non_exhaustive]
pub struct Running {
    /// The address that it listens on, with the actual port if it was started with port 0.
    pub address: SocketAddr,
    /// Its database.
    pub database: Database,
    /// The subscriber that follows the entities.
    pub subscriber: Subscriber,
    traces: Traces,
    tasks: TaskTracker,
    server: JoinHandle<()>,
}

impl Running {
    /// Waits until the token is cancelled, everything has stopped and the database is closed.
    pub async fn stopped(self) {
        let _ = self.server.await;
        self.subscriber.stopped().await;
        self.tasks.wait().await;
        self.database.close().await;
        self.traces.flush().await;
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let follows: Vec<_> = self.follows.iter().map(|follow| follow.entity).collect();
        f.debug_struct("Service").field("name", &self.name).field("follows", &follows).finish()
    }
}

impl Service {
    /// Starts to describe a service. The name also identifies it at the broker: its replicas share it, and no
    /// other service may use it.
    pub fn new(name: &'static str) -> Self {
        let help = format!("`{name} openapi` prints the OpenAPI document.");
        let bind = Arg::new(BIND)
            .long(BIND)
            .env("BIND")
            .value_name("ADDRESS")
            .help(
                "Address to listen on; other than loopback only with AUTH_ISSUER and BEHIND_PROXY",
            )
            .default_value("127.0.0.1:0")
            .value_parser(address);
        let info = InfoBuilder::new().title(name).version("1.0.0").build();
        Self {
            name,
            // After the settings, because their type would set a text of its own.
            command: ServiceArgs::augment_args(Command::new(name))
                .about(format!("The service {name}"))
                .after_help(help)
                .arg(bind),
            about: OpenApiBuilder::new().info(info).build(),
            documents: Vec::new(),
            data: None,
            follows: Vec::new(),
            calls: Vec::new(),
            reads: Vec::new(),
            configure: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Sets the texts of `--help` and `--version`.
    pub fn about(mut self, about: &'static str, version: &'static str) -> Self {
        self.command = self.command.about(about).version(version);
        self
    }

    /// Sets the parts of the OpenAPI document that no route provides, such as its title.
    pub fn document_head(mut self, about: OpenApi) -> Self {
        self.about = about;
        self
    }

    /// Sets the address to listen on unless `BIND` is set, such as `127.0.0.1:7102`.
    pub fn listen(mut self, address: &'static str) -> Self {
        self.command = self.command.mut_arg(BIND, |bind| bind.default_value(address));
        self
    }

    /// Follows `entity` and hands its states to `handler`. Its owner is at `owner_url` unless the setting says
    /// otherwise: `STORE_OWNER_URL` for the entity `store`. Call this once for each entity.
    pub fn follow<A: Apply>(
        mut self,
        entity: &'static str,
        owner_url: &'static str,
        handler: A,
    ) -> Self {
        if self.follows.is_empty() {
            self.command = self.command.args(of_subscribers());
        }
        let setting = format!("{}-owner-url", entity.replace('_', "-"));
        // Following an entity twice is refused at the start, with its name.
        if self.follows.iter().all(|follow| follow.setting != setting) {
            let help = format!("Base URL of the owner of {entity}");
            self.command = self.command.arg(url_setting(&setting, owner_url, help));
        }
        let add = Box::new(move |builder: Builder, url: &str| builder.follow(entity, url, handler));
        self.follows.push(Follow { entity, setting, add });
        self
    }

    /// Says that this service owns `entity` itself: see [`Builder::owns`]. A service may own something and follow nothing;
    /// then it has neither `/nudge/v1` nor the settings of subscribers. What publishes and serves the entity is a
    /// [`part`](Self::part).
    pub fn owns(mut self, entity: &'static str) -> Self {
        // Without the text that their type would set for the whole command.
        let settings = OwnerArgs::augment_args(Command::new(self.name));
        for setting in settings.get_arguments() {
            if self.command.get_arguments().all(|known| known.get_id() != setting.get_id()) {
                self.command = self.command.arg(setting.clone());
            }
        }
        self.subscriber(move |builder| builder.owns(entity))
    }

    /// Calls the service `name` while it answers requests. That service is at `url` unless the setting says otherwise:
    /// `SEARCH_URL` for the service `search`. [`Started::url`] returns what was set. Call this once for each service.
    pub fn calls(mut self, name: &'static str, url: &'static str) -> Self {
        let help = format!("Base URL of {name}");
        self.command = self.command.arg(url_setting(&url_of(name), url, help));
        self.calls.push(name);
        self
    }

    /// Says that a `POST` to this path only reads, as with GraphQL: it then needs the scope `read` instead of `write`.
    pub fn reads(mut self, path: &'static str) -> Self {
        self.reads.push(path);
        self
    }

    /// Says that the service keeps data that exists nowhere else, in tables that these migrations create;
    /// `component` names them among the migrations of the database. Each commit then waits for the disk. Without
    /// such data it does not, because whatever is lost in a power failure is read again.
    pub fn keeps(mut self, component: &'static str, migrations: &'static [Migration]) -> Self {
        self.data = Some((component, migrations));
        self
    }

    /// Configures the [`Builder`] further, such as its limits.
    pub fn subscriber(
        mut self,
        configure: impl FnOnce(Builder) -> Builder + Send + 'static,
    ) -> Self {
        self.configure.push(Box::new(configure));
        self
    }

    /// Serves these routes: a [`Router`](axum::Router), or an [`OpenApiRouter`], which adds them to the OpenAPI
    /// document. `state` makes the state that their handlers share, such as the database. They honour `Nudge-Token`.
    pub fn routes<S: Clone + Send + Sync + 'static>(
        self,
        routes: impl Into<OpenApiRouter<S>>,
        state: impl FnOnce(&Started) -> S + Send + 'static,
    ) -> Self {
        let routes = routes.into();
        let mut document = routes.get_openapi().clone();
        waits(&mut document);
        self.part([document], move |at| async move {
            let state = state(&at);
            Ok(at.subscriber.wait_layer(routes.with_state(state)))
        })
    }

    /// Adds a part of your own: `start` is called when everything else has started, and returns the routes to serve.
    /// `documents` describe these routes, so that the OpenAPI document can be printed without starting anything.
    pub fn part<F>(
        mut self,
        documents: impl IntoIterator<Item = OpenApi>,
        start: impl FnOnce(Started) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<OpenApiRouter, BoxError>> + Send + 'static,
    {
        self.documents.extend(documents);
        self.parts.push(Box::new(move |at| Box::pin(start(at))));
        self
    }

    /// The OpenAPI document, as text.
    pub fn document(&self) -> String {
        let shared = if self.follows.is_empty() { health() } else { routes() };
        let documents = self.documents.iter().cloned().chain([shared]);
        openapi::document(self.about.clone(), documents, &self.reads)
    }

    /// The `main` of the service: runs it until SIGINT or SIGTERM. If the start fails, it prints one line and ends.
    ///
    /// # Panics
    /// Within an async runtime, since it creates its own. From async code, await [`run_with`](Self::run_with).
    pub fn run(self) -> ExitCode {
        match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.run_with(env::args_os().collect())),
            Err(error) => {
                eprintln!("error: cannot start threads: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Like [`run`](Self::run), but within an async runtime. `words` are the program's name and its arguments.
    pub async fn run_with(self, words: Vec<OsString>) -> ExitCode {
        let (command, document) = (self.command.clone(), self.document());
        let start =
            async |matches: ArgMatches, stop| Ok(self.start_with(&matches, stop).await?.stopped());
        program::run(words, command, || document, start).await
    }

    /// Starts the service within this process; it runs until `stop` is cancelled. For tests. `words` are the
    /// program's name and its arguments.
    ///
    /// # Errors
    /// If a setting is invalid or something cannot be started.
    pub async fn start(
        self,
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        stop: CancellationToken,
    ) -> Result<Running, BoxError> {
        let matches = self.command.clone().try_get_matches_from(words)?;
        self.start_with(&matches, stop).await
    }

    async fn start_with(
        self,
        matches: &ArgMatches,
        stop: CancellationToken,
    ) -> Result<Running, BoxError> {
        let args = ServiceArgs::from_arg_matches(matches)?;
        tls::install();
        let settings = self.follows.iter().map(|follow| follow.setting.clone());
        for setting in settings.chain(self.calls.iter().map(|name| url_of(name))) {
            let url = matches.get_one::<String>(&setting).map_or("", String::as_str);
            args.auth.refuse_plain_text(&variable(&setting), url)?;
        }
        let traces = Traces::start(&args.traces, self.name)?;
        // First, so that the start fails before anything else happens if the port is taken.
        let admission = Admission::of(&args.auth)?.reads(&self.reads);
        let bind = matches.get_one(BIND).copied();
        let (listener, address) = admission.listen(bind.ok_or("BIND: must be set")?).await?;
        let credentials = Credentials::of(&args.auth)?;
        let durability = match self.data {
            Some(_) => Durability::Full,
            None => Durability::Refillable,
        };
        let database = Database::open(args.database_url(), durability).await?;
        if let Some((component, migrations)) = self.data {
            database.migrate(component, migrations).await?;
        }
        let broker = Broker::connect_with(&args.nats, self.name).await?;
        // If the start fails halfway, whatever has started is stopped again.
        let stop = stop.child_token();
        let guard = stop.clone().drop_guard();
        let alerts = Alerts::start(&args.alerts, self.name, &broker, stop.clone());
        let mut builder = Subscriber::builder(self.name, &database, &broker)
            .alerts(&alerts)
            .credentials(&credentials)
            .traces(&traces);
        let follows = !self.follows.is_empty();
        for follow in self.follows {
            let url = matches.get_one::<String>(&follow.setting).map_or("", String::as_str);
            tracing::info!(entity = follow.entity, owner = url, "following");
            builder = (follow.add)(builder, url);
        }
        for configure in self.configure {
            builder = configure(builder);
        }
        if follows {
            if let Some(percent) = matches.get_one(RESYNC_PERCENT) {
                builder = builder.resync_percent(*percent);
            }
            if matches.get_one(READY_WHEN_EQUAL) == Some(&true) {
                builder = builder.ready_when_equal(true);
            }
        }
        let subscriber = builder.start(stop.clone()).await?;
        subscriber.with_registry(|registry| admission.register_metrics(registry));
        let tasks = TaskTracker::new();
        let url = |name: &&'static str| {
            Some((*name, matches.get_one::<String>(&url_of(name))?.to_owned()))
        };
        let urls = Arc::new(self.calls.iter().filter_map(url).collect());
        // A service that owns nothing has no such settings.
        let callback_budget = matches.try_get_one(CALLBACK_BUDGET).ok().flatten().copied();
        let started = Started {
            database,
            broker,
            subscriber,
            alerts,
            credentials,
            traces,
            callback_budget,
            stop,
            urls,
            tasks,
        };
        let mut router = OpenApiRouter::default();
        for part in self.parts {
            router = router.merge(part(started.clone()).await?);
        }
        // Last, as in the document that `openapi` prints.
        router = router.merge(started.subscriber.openapi_router());
        let Started { database, subscriber, traces, stop, tasks, .. } = started;
        tasks.close();
        let router = traces.serve(openapi::served(self.about, router, &self.reads));
        let server = tokio::spawn(admission.serve(listener, router, stop));
        guard.disarm();
        tracing::info!(%address, service = self.name, "listening");
        Ok(Running { address, database, subscriber, traces, tasks, server })
    }
}

/// The settings of a service that follows something.
fn of_subscribers() -> [Arg; 2] {
    let resync_percent = Arg::new(RESYNC_PERCENT)
            .long(RESYNC_PERCENT)
            .env("RESYNC_PERCENT")
            .value_name("PERCENT")
            .help("How much of its owners' time comparing with them may take; 0 switches it off [default: 1]")
            .value_parser(clap::value_parser!(u32).range(0..=100));
    let ready_when_equal = Arg::new(READY_WHEN_EQUAL)
            .long(READY_WHEN_EQUAL)
            .env("READY_WHEN_EQUAL")
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .help("Be ready only once it was found equal to its owners, to build a read model anew beside the one that serves")
            .value_parser(clap::value_parser!(bool));
    [resync_percent, ready_when_equal]
}

/// The setting for the URL of a service that is called.
fn url_of(name: &str) -> String {
    format!("{}-url", name.replace('_', "-"))
}

/// The environment variable of a setting.
fn variable(setting: &str) -> String {
    setting.replace('-', "_").to_uppercase()
}

fn url_setting(setting: &str, default: &'static str, help: String) -> Arg {
    Arg::new(setting.to_owned())
        .long(setting.to_owned())
        .env(variable(setting))
        .value_name("URL")
        .help(help)
        .default_value(default)
        .value_parser(http_url)
}
