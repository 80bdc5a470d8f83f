//! What tests on real servers share.
//!
//! Every test starts its own servers on free loopback ports and ends them when it is done, also when
//! it fails. Tests wait for a state, with [`eventually`], never for a time.
//!
//! | module | what it gives |
//! |---|---|
//! | [`nats`] | a real nats-server |
//! | [`owner`] | a small owner of `thing`s: the real publisher, with faults to order |
//! | [`copy`] | a small subscriber of `thing`s: the real kit, with an `apply` that can be made to fail |
//! | [`services`] | store-info, search and review, in this process |
//! | [`wire`] | publishing by hand, whatever a test wants on the wire |

pub mod copy;
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
pub use nats::Nats;
pub use owner::{Fault, Owner};
pub use services::Services;
pub use wire::Wire;

/// Longest wait for a state. Only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// An id that must be good.
pub fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("a good id")
}

/// Shows logs of a failing test when `LOG` is set.
pub fn logs() {
    if let Ok(filter) = std::env::var("LOG") {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
    }
}
