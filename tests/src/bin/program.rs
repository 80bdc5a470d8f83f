//! Every service in one program, so that tests that kill processes run what was just built.
//!
//! The first argument selects the service; the others are its own. The program ends when its input ends, so nothing is
//! left behind, however a test ends.

use std::{env, io, process::ExitCode, thread, time::Duration};

use nudge_subscriber_kit::Settings;

/// How long the impatient search waits for an answer of the owner.
const IMPATIENT_FETCH: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> ExitCode {
    nudge_otlp::link();
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
    let words: Vec<_> = env::args_os().skip(1).collect();
    match words.first().and_then(|name| name.to_str()) {
        Some("store-info") => store_info::program(words).await,
        Some("search") => search::service().run_with(words).await,
        Some("review") => review::service().run_with(words).await,
        Some("impatient-search") => {
            // With the usual 10 s, five consecutive failures would take most of a minute.
            let settings = Settings { fetch_timeout: IMPATIENT_FETCH, ..Settings::default() };
            search::service()
                .subscriber(move |builder| builder.settings(settings))
                .run_with(words)
                .await
        }
        other => panic!("{other:?} is no program"),
    }
}
