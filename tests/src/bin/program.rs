//! Every service in one program, so that tests which kill processes run what was just built.
//!
//! Which one it is, is its first argument; the others are that program's. It ends when its input does:
//! nothing stays behind, however a test ends.

use std::{env, io, process::ExitCode, thread, time::Duration};

use nudge_runtime::{
    BoxError, Broker, Database,
    database::Durability,
    program::run,
    serve::{bind, serve},
};
use nudge_subscriber_kit::{Settings, Subscriber};
use tokio_util::sync::CancellationToken;

/// Longest wait of the impatient search for an answer of the owner.
const IMPATIENT_FETCH: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> ExitCode {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
    let words: Vec<_> = env::args_os().skip(1).collect();
    match words.first().and_then(|name| name.to_str()) {
        Some("store-info") => store_info::program(words).await,
        Some("search") => search::program(words).await,
        Some("review") => review::program(words).await,
        Some("impatient-search") => {
            run(words, search::openapi::document, |args| &args.service, impatient_search).await
        }
        other => panic!("{other:?} is no program"),
    }
}

/// Search, put together as its own `start` does it, but giving up on an owner's answer soon: with
/// the 10 s of a real one, it takes most of a minute until five callbacks in a row have failed.
async fn impatient_search(
    args: &search::Args,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, BoxError> {
    let listener = bind(args.bind).await?;
    let db = Database::open(&args.service.database_url, Durability::Refillable).await?;
    search::read_model::migrate(&db).await?;
    let broker = Broker::connect_with(&args.service.nats, "search").await?;
    let settings = Settings { fetch_timeout: IMPATIENT_FETCH, ..Settings::default() };
    let subscriber = Subscriber::builder("search", &db, &broker)
        .follow("store", &args.store_owner_url, search::read_model::Stores)
        .settings(settings)
        .start(stop.clone())
        .await?;
    let server = tokio::spawn(serve(listener, search::router(&db, &subscriber), stop));
    Ok(async move {
        subscriber.stopped().await;
        let _ = server.await;
        db.close().await;
    })
}
