//! The demo's NATS server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nudge_runtime::Broker;
use nudge_testbed::{
    nats::{self, is_ready},
    program::{Launch, Output},
};

use super::{data_dir::DataDir, ports, talk::Talk};
use crate::failure::Failure;

/// Interval between checks of whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The path of a server, looked for from here and from the checkout of this program, `exe`: the one around it, and the one
/// that it was built from, if cargo builds elsewhere.
pub(crate) async fn find(exe: &Path, talk: &Talk) -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let places = [&here, exe, Path::new(env!("CARGO_MANIFEST_DIR"))];
    let found = nats::find(&places, || talk.doing("looking for a NATS server")).await;
    found.map_err(Failure::Failed)
}

/// The URL at which the services reach it.
pub(super) fn url(base: u16) -> String {
    format!("nats://127.0.0.1:{}", ports::nats(base))
}

/// The server, on loopback, with JetStream in the data directory.
pub(super) fn launch(exe: &Path, base: u16, data: &DataDir) -> Launch {
    let log = Output::Log(data.logs().join("nats.log"));
    let mut launch = nats::launch(exe, ports::nats(base), &data.nats(), log);
    launch.args.extend(["--name", "nudge-dev"].map(Into::into));
    launch.last = true;
    launch
}

/// Waits until the server answers through a real connection, JetStream included.
pub(super) async fn wait_ready(broker: &Broker, talk: &Talk) {
    loop {
        talk.doing("starting NATS");
        if is_ready(broker).await {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
