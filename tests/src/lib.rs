//! What tests on real servers share.
//!
//! The servers themselves, the databases, and the lines between programs are those of [`nudge_testbed`].
//!
//! | module | what it gives |
//! |---|---|
//! | [`owner`] | a small owner of `thing`s: the real publisher |
//! | [`fault`] | what goes wrong at its sync API, to order |
//! | [`figure`] | what a trial cost |
//! | [`copy`] | a small subscriber of `thing`s: the real kit |
//! | [`keep`] | its `apply`, which can be made to fail or to wait |
//! | [`processes`] | the services as processes, to be killed, stopped and frozen |
//! | [`services`] | store-info, search and review, in this process |
//! | [`trial`] | edits, a fault, convergence, and what it cost |
//! | [`wire`] | publishing by hand, whatever a test wants on the wire |

pub mod copy;
pub mod fault;
pub mod figure;
pub mod keep;
mod kept;
pub mod owner;
pub mod processes;
pub mod services;
pub mod trial;
pub mod wire;

use nudge_protocol::EntityId;
use nudge_runtime::Broker;
use nudge_testbed::line::Settings;

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

/// A line to a port of this machine that keeps what is said on it.
pub async fn line_to(port: u16) -> Line {
    Line::to(port, Settings { keeps: true, ..Settings::default() }).await.expect("a port")
}

/// A connection by a line to NATS, for a program under test.
pub async fn broker_by(line: &Line, name: &str) -> Broker {
    Broker::connect(&format!("nats://{}", line.address()), name).await.expect("a good URL")
}

/// An id that must be good.
pub fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("a good id")
}
