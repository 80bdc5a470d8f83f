//! Real servers for one test.
//!
//! Every test starts what it needs on free loopback ports and stops it when it is done, even if it
//! fails. Tests wait for a state, with [`eventually`], never for a time. Failures panic.
//!
//! | module | what it gives |
//! |---|---|
//! | [`nats`] | a nats-server |
//! | [`postgres`] | a PostgreSQL server that can be stopped, crashed and frozen |
//! | [`database`] | an empty database, of the kind that `NUDGE_TEST_DATABASE` names |
//! | [`shell`] | the databases' own shells |

pub mod database;
pub mod nats;
pub mod postgres;
pub mod shell;

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use database::{Backup, TestDatabase};
pub use nats::Nats;
pub use postgres::Postgres;

/// Longest wait for a state. Only a test that fails waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a test watches for something that must not happen.
pub const QUIET: Duration = Duration::from_millis(300);

/// Calls `look` until it finds something. Panics with `what` if it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> T {
    let found = within(PATIENCE, look).await;
    found.unwrap_or_else(|| panic!("never happened: {what}"))
}

/// Like [`eventually`], but gives up quietly after this long.
pub async fn within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prepares a test: shows its logs when `LOG` is set, and lets it make HTTP clients.
pub fn logs() {
    nudge_runtime::tls::install();
    if let Ok(filter) = env::var("LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}

/// A script of the project.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name)
}
