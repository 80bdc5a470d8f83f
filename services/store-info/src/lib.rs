//! The owner of stores.
//!
//! A write is one transaction: the store's rows and the change-log row, or neither. The
//! publisher then tells NATS *that* it changed, and answers callbacks with *what* it is.
//!
//! ```text
//! http ──► domain (pure: what is a valid store, what does this request do) ──► storage (all SQL)
//!                                                                              └─► publisher
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`domain`] | the store, its limits, merge patch, and what each request does: pure |
//! | [`storage`] | the tables, and the one transaction of each write |
//! | [`mod@import`] | many stores from a stream of lines |
//! | [`http`] | the HTTP edge |
//! | [`openapi`] | the OpenAPI document of that edge |
//! | [`metrics`] | counters |

pub mod domain;
pub mod http;
pub mod import;
pub mod metrics;
pub mod openapi;
pub mod storage;

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use axum::Router;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use nudge_protocol::{EntityName, cloud_events::EventSource};
use nudge_publisher::Publisher;
use nudge_runtime::{
    Broker, Database,
    alerts::Alerts,
    args::{self, OwnerArgs, ServiceArgs},
    auth::{Admission, AuthError},
    broker::BrokerError,
    database::{Durability, OpenError},
    program,
    serve::BindError,
    traces::{self, Traces},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use metrics::Metrics;
use storage::{OpenStoresError, Stores};

/// The kind of entity that this service owns.
pub const ENTITY: &str = "store";

fn entity() -> EntityName {
    EntityName::new(ENTITY).expect("a lower-case word is an entity name")
}

/// The service's arguments.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "store-info",
    version,
    about = "The owner of stores",
    after_help = "`store-info openapi` prints the OpenAPI document of the HTTP API."
)]
pub struct Args {
    /// Database, NATS, logs.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// How much subscribers may ask for.
    #[command(flatten)]
    pub owner: OwnerArgs,
    /// Address to listen on; other than loopback only with AUTH_ISSUER, and TLS_CERT_FILE or BEHIND_PROXY
    #[arg(long, env = "BIND", value_name = "ADDRESS", default_value = "127.0.0.1:7101", value_parser = args::address)]
    pub bind: SocketAddr,
    /// Load the sample stores if both the database and the stream are empty
    #[arg(long, env = "SAMPLE", value_parser = clap::builder::BoolishValueParser::new())]
    pub sample: bool,
    /// Publish notifications that are CloudEvents, too, with this source, for instance /store-info
    #[arg(long, env = "CLOUD_EVENTS_SOURCE", value_name = "URI")]
    pub cloud_events_source: Option<EventSource>,
}

/// Why the service cannot start. Each error names the setting to fix.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not available.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The settings for tokens cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The database cannot be opened, or its tables cannot be migrated.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The tables cannot be used.
    #[error(transparent)]
    Stores(#[from] OpenStoresError),
    /// The settings for NATS are invalid. (If the server is down, the service keeps trying.)
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] traces::StartError),
    /// The sample stores cannot be written.
    #[error("SAMPLE: cannot load the sample stores")]
    Sample(#[source] sqlx::Error),
}

/// The running service.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    stores: Stores,
    db: Database,
    traces: Traces,
    tasks: Vec<JoinHandle<()>>,
}

impl Service {
    /// The address it listens on, with the port that was picked if it was given 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its stores, for programs that embed the service.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Waits until it has stopped: requests answered, the relay stopped, the database closed.
    pub async fn stopped(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the service failed");
            }
        }
        self.db.close().await;
        self.traces.flush().await;
    }
}

/// Runs the program `store-info` until it is told to stop. `words` are its name and its arguments.
pub async fn program(words: Vec<OsString>) -> ExitCode {
    let start = async |matches: ArgMatches, stop| {
        Ok(start(&Args::from_arg_matches(&matches)?, stop).await?.stopped())
    };
    program::run(words, Args::command(), openapi::document, start).await
}

/// Starts the service, which runs until `stop` is cancelled. NATS may be down: changes made
/// meanwhile are published when it is back.
pub async fn start(args: &Args, stop: CancellationToken) -> Result<Service, StartError> {
    // First, so that a second instance fails before it touches anything.
    let admission = Admission::of(&args.service.auth)?;
    let (listener, address) = admission.listen(args.bind).await?;
    let db = Database::open(args.service.database_url(), Durability::Full).await?;
    let broker = Broker::connect_with(&args.service.nats, "store-info").await?;
    let alerts = Alerts::start(&args.service.alerts, "store-info", &broker, stop.clone());
    let traces = Traces::start(&args.service.traces, "store-info")?;
    let mut publisher = Publisher::open(&db, entity()).await?;
    publisher = publisher.alerts(&alerts).traces(&traces).budget(args.owner.callback_budget);
    if let Some(source) = &args.cloud_events_source {
        publisher = publisher.cloud_events(source.clone());
    }
    let metrics = Metrics::default();
    let stores = Stores::open(&db, publisher, metrics.clone()).await?;
    let publisher = stores.publisher();
    let registry = metrics.registry(publisher, &alerts, &traces, &admission);
    let mut tasks = Vec::new();
    if args.sample {
        let loading = import::load_sample(&stores, &broker, stop.clone()).await;
        tasks.extend(loading.map_err(StartError::Sample)?);
    }
    tasks.push(publisher.spawn_relay(&broker, stop.clone()));
    let app = http::App { stores: stores.clone(), registry, stop: stop.clone() };
    tasks.push(tokio::spawn(admission.serve(listener, traces.serve(router(app)), stop)));
    tracing::info!(%address, service = "store-info", "listening");
    Ok(Service { address, stores, db, traces, tasks })
}

/// All routes of the service: its own, those of the sync API, and the document of both.
fn router(app: http::App) -> Router {
    let sync_api = app.stores.publisher().openapi_router(app.stores.clone());
    openapi::served(http::routes().with_state(app).merge(sync_api))
}
