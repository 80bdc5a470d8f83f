//! What tests on real servers share.
//!
//! The servers themselves, and the databases, are those of [`nudge_test_servers`].
//!
//! | module | what it gives |
//! |---|---|
//! | [`link`] | a way to NATS that can be held or cut |
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
pub mod link;
pub mod owner;
pub mod processes;
pub mod services;
pub mod trial;
pub mod wire;

use nudge_protocol::EntityId;

pub use copy::{Copy, ReadModel};
pub use fault::Fault;
pub use kept::{keep_tables, put_tables_back};
pub use link::Link;
pub use nudge_test_servers::{
    Backup, Nats, PATIENCE, Postgres, QUIET, TestDatabase, database, eventually, logs,
    port::free_port, shell,
};
pub use owner::Owner;
pub use services::Services;
pub use trial::Trial;
pub use wire::Wire;

/// Pseudo-random numbers: the same seed, the same numbers.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    /// Puts things into any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}

/// An id that must be good.
pub fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("a good id")
}
