//! The query-only model of stores: text and filters in, ids of matching stores out.
//!
//! It owns nothing. The subscriber kit hears from the owner of stores that one has changed, asks
//! for its current state and hands it to [`read_model::Stores`], which keeps what can be searched.
//! A search reads that read model alone and never calls anyone.
//!
//! | module | |
//! |---|---|
//! | [`store`] | what is kept of a store, and what of it can be searched |
//! | [`bigram`] | text cut so that an index finds part of a Korean word |
//! | [`query`], [`cursor`] | what a request asks for, and where a page ended |
//! | [`read_model`] | all SQL: tables, apply, find |
//! | [`http`], [`openapi`] | the edge |
//!
//! The first three are pure; the rest is a thin shell around them.

pub mod bigram;
pub mod cursor;
pub mod http;
pub mod openapi;
pub mod query;
pub mod read_model;
pub mod store;

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use axum::Router;
use clap::Parser;
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

/// Search of stores: `GET /stores?q=`. `search openapi` prints the OpenAPI document.
#[derive(Clone, Debug, Parser)]
#[command(name = "search", version)]
pub struct Args {
    /// What every service is told.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Address to listen on
    #[arg(long, env = "BIND", value_name = "ADDRESS", default_value = "127.0.0.1:7102", value_parser = loopback_address)]
    pub bind: SocketAddr,
    /// Base URL of the owner of stores
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

/// The running service.
#[derive(Debug)]
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    db: Database,
    subscriber: Subscriber,
    listener: JoinHandle<()>,
}

/// The program `search`, until it is told to stop. `words` are its name and its arguments.
pub async fn program(words: Vec<OsString>) -> ExitCode {
    let start = async |args: &Args, stop| Ok(start(args, stop).await?.stopped());
    program::run(words, openapi::document, |args: &Args| &args.service, start).await
}

/// Starts the service; it runs until `stop` is cancelled.
pub async fn start(args: &Args, stop: CancellationToken) -> Result<Service, StartError> {
    // First, so that a port that is taken ends the start before anything else happens.
    let (listener, address) = serve::listen(args.bind).await?;
    // What a power loss takes comes back by itself, from the recorded position.
    let db = Database::open(&args.service.database_url, Durability::Refillable).await?;
    read_model::migrate(&db).await?;
    let broker = Broker::connect_with(&args.service.nats, "search").await?;
    let subscriber = Subscriber::builder("search", &db, &broker)
        .follow("store", &args.store_owner_url, read_model::Stores)
        .start(stop.clone())
        .await?;
    let listener = tokio::spawn(serve::serve(listener, router(&db, &subscriber), stop));
    tracing::info!(%address, "search is listening");
    Ok(Service { address, db, subscriber, listener })
}

/// All routes of the service: its own, those that every subscriber has, and the document of both.
pub fn router(db: &Database, subscriber: &Subscriber) -> Router {
    let own = subscriber.wait_layer(http::routes().with_state(db.clone()));
    openapi::served(own.merge(subscriber.openapi_router()))
}

impl Service {
    /// Waits until the service, told to stop, has finished what it was doing.
    pub async fn stopped(self) {
        self.subscriber.stopped().await;
        let _ = self.listener.await;
        self.db.close().await;
    }
}
