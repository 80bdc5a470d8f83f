//! What tests on real servers share.
//!
//! Every test starts its own servers on free loopback ports and ends them when it is done, also when
//! it fails. Tests wait for a state, with [`eventually`], never for a time.
//!
//! | module | what it gives |
//! |---|---|
//! | [`nats`] | a real nats-server |
//! | [`owner`] | a small owner of `thing`s: the real publisher |
//! | [`fault`] | what goes wrong at its sync API, to order |
//! | [`copy`] | a small subscriber of `thing`s: the real kit |
//! | [`keep`] | its `apply`, which can be made to fail or to wait |
//! | [`services`] | store-info, search and review, in this process |
//! | [`wire`] | publishing by hand, whatever a test wants on the wire |

pub mod copy;
pub mod fault;
pub mod keep;
pub mod nats;
pub mod owner;
pub mod services;
pub mod wire;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use nudge_protocol::EntityId;

pub use copy::{Copy, ReadModel};
pub use fault::Fault;
pub use nats::Nats;
pub use owner::Owner;
pub use services::Services;
pub use wire::Wire;

/// Longest wait for a state. Only a test that fails waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something, looking again and again. Panics with `what` when it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

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

/// Shows logs of a failing test when `LOG` is set.
pub fn logs() {
    if let Ok(filter) = std::env::var("LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}
