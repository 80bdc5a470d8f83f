//! What tests on real servers share.
//!
//! The servers, the databases and the lines between programs come from [`nudge_testbed`].
//!
//! | module | what it provides |
//! |---|---|
//! | [`collector`] | a small collector of traces |
//! | [`owner`] | a small owner of `thing`s: the real publisher |
//! | [`fault`] | faults of its sync API, on demand |
//! | [`figure`] | what a trial cost |
//! | [`copy`] | a small subscriber of `thing`s: the real kit |
//! | [`keep`] | its `apply`, which can be made to fail or to wait |
//! | [`metrics`] | what `/metrics` offers, and `docs/metrics.md`, which is made of it |
//! | [`processes`] | the services as processes, to be killed, stopped and frozen |
//! | [`python`] | the programs of `examples/python` |
//! | [`services`] | store-info, search and review, in this process |
//! | [`trial`] | edits, a fault, convergence, and the costs |
//! | [`wire`] | publishing any message by hand |

pub mod collector;
pub mod copy;
pub mod fault;
pub mod figure;
pub mod keep;
mod kept;
pub mod metrics;
pub mod owner;
pub mod processes;
pub mod python;
pub mod services;
pub mod trial;
pub mod wire;

use std::path::PathBuf;

use nudge_protocol::EntityId;
use nudge_runtime::Broker;
use nudge_testbed::line::Settings;

pub use collector::{Collector, Mood};
pub use copy::{Copy, ReadModel};
pub use fault::Fault;
pub use kept::{keep_tables, put_tables_back};
pub use nudge_chance::Random;
pub use nudge_testbed::{
    Backup, Line, Nats, PATIENCE, Postgres, QUIET, Service, TestDatabase, Way, database,
    eventually, logs, ports::free_port, shell, within,
};
pub use owner::Owner;
pub use services::Services;
pub use trial::Trial;
pub use wire::Wire;

/// A line to a port of this machine that records its traffic.
pub async fn line_to(port: u16) -> Line {
    Line::to(port, Settings { keeps: true, ..Settings::default() }).await.expect("a port")
}

/// A connection to NATS through a line, for a program under test.
pub async fn broker_by(line: &Line, name: &str) -> Broker {
    Broker::connect(&format!("nats://{}", line.address()), name).await.expect("a good URL")
}

/// `nudge`, which the workspace builds, two directories up from this test's own executable.
pub fn nudge() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("target/debug/deps");
    let path = target.join("nudge");
    assert!(
        path.is_file(),
        "{} is not built: this test needs `cargo test --workspace`, or first `cargo build -p nudge`",
        path.display()
    );
    path
}

/// An ID, which must be valid.
pub fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("a good id")
}
