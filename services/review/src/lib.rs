//! The review service: it owns reviews, and follows stores.
//!
//! ```text
//!            store-info ──► NATS ──► subscriber kit ──► known_store      (read model)
//! author ──► http ──► reviews ──► store known and open? ──► review + change log, one transaction
//!                                                              └──► relay ──► NATS ──► whoever follows reviews
//! ```
//!
//! Whether a store may be reviewed is decided by the copy in this database, in the transaction that
//! writes the review; store-info may be down. That copy holds a name, a flag and a version.
//!
//! | module | what it holds |
//! |---|---|
//! | [`domain`] | what a review is, and when one may be written |
//! | [`draft`] | reads what an author sent, and tells all that is wrong with it |
//! | [`reviews`] | what can be done with reviews, a transaction each |
//! | [`storage`] | the SQL of reviews |
//! | [`stores`] | what is known of stores, and how it is kept in step |
//! | [`http`] | the endpoints |
//! | [`openapi`] | their description |

pub mod domain;
pub mod draft;
pub mod http;
pub mod openapi;
pub mod reviews;
pub mod storage;
pub mod stores;

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use axum::Router;
use nudge_protocol::EntityName;
use nudge_publisher::Publisher;
use nudge_runtime::{
    Broker, Database,
    args::{ServiceArgs, http_url, loopback_address},
    broker::BrokerError,
    database::{Durability, OpenError},
    program, serve,
};
use nudge_subscriber_kit::Subscriber;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use reviews::Reviews;

/// The kind of entity that this service owns.
pub const REVIEW: &str = "review";
/// The kind of entity that it follows.
pub const STORE: &str = "store";

/// What the program is told. `review openapi` prints the OpenAPI document instead of serving.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "review",
    version,
    about = "Owns reviews and follows stores",
    after_help = "`review openapi` prints the OpenAPI document."
)]
pub struct Args {
    /// What every service is told.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Where to listen; loopback only
    #[arg(long, env = "BIND", value_name = "ADDRESS", default_value = "127.0.0.1:7103", value_parser = loopback_address)]
    pub bind: SocketAddr,
    /// Base URL of store-info, the owner of stores
    #[arg(long, env = "STORE_OWNER_URL", value_name = "URL", default_value = "http://127.0.0.1:7101", value_parser = http_url)]
    pub store_owner_url: String,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] serve::BindError),
    /// The database cannot be opened or migrated.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The NATS URL is of no use.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The subscriber cannot start.
    #[error(transparent)]
    Subscriber(#[from] nudge_subscriber_kit::StartError),
}

/// The service while it runs.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its database.
    pub database: Database,
    subscriber: Subscriber,
    relay: JoinHandle<()>,
    server: JoinHandle<()>,
}

/// The program `review`, until it is told to stop. `words` are its name and its arguments.
pub async fn program(words: Vec<OsString>) -> ExitCode {
    let start = async |args: &Args, stop| Ok(start(args, stop).await?.stopped());
    program::run(words, openapi::document, |args: &Args| &args.service, start).await
}

/// Starts the service. It serves until `stop` is cancelled; await [`Service::stopped`] then.
pub async fn start(args: &Args, stop: CancellationToken) -> Result<Service, StartError> {
    // First, since a taken port is the likeliest fault and the cheapest to find.
    let (listener, address) = serve::listen(args.bind).await?;
    // Full: reviews exist nowhere else.
    let database = Database::open(&args.service.database_url, Durability::Full).await?;
    database.migrate(storage::COMPONENT, storage::MIGRATIONS).await?;
    let broker = Broker::connect_with(&args.service.nats, REVIEW).await?;
    let publisher = Publisher::open(&database, entity()).await?;
    let subscriber = Subscriber::builder(REVIEW, &database, &broker)
        .follow(STORE, &args.store_owner_url, stores::mirror())
        // A token of an own write has nothing to wait for.
        .owns(REVIEW)
        .start(stop.clone())
        .await?;
    subscriber.with_registry(|registry| publisher.register_metrics(registry));
    let reviews = Reviews::new(database.clone(), publisher.clone());
    let router = router(&subscriber, &publisher, reviews);
    let relay = publisher.spawn_relay(&broker, stop.clone());
    let server = tokio::spawn(serve::serve(listener, router, stop));
    tracing::info!(%address, "review serves");
    Ok(Service { address, database, subscriber, relay, server })
}

/// All routes of the service: its own, those of an owner and of a subscriber, and the document of all.
fn router(subscriber: &Subscriber, publisher: &Publisher, reviews: Reviews) -> Router {
    let own = subscriber.wait_layer(http::routes().with_state(reviews.clone()));
    let sync_api = publisher.openapi_router(reviews);
    openapi::served(own.merge(sync_api).merge(subscriber.openapi_router()))
}

fn entity() -> EntityName {
    EntityName::new(REVIEW).expect("a constant that follows the rules")
}

impl Service {
    /// Resolves when everything has stopped after `stop` was cancelled, the database closed.
    pub async fn stopped(self) {
        let _ = self.server.await;
        self.subscriber.stopped().await;
        let _ = self.relay.await;
        self.database.close().await;
    }
}
