//! An owner as its subscribers have it: the way to it, and its breaker.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::callback::{
    breaker::Breaker,
    owner_client::{FetchError, OwnerClient},
};

/// An owner, and the breaker that all its followed entities share.
#[derive(Clone)]
pub(crate) struct OwnerLink {
    pub(crate) client: Arc<dyn OwnerClient>,
    breaker: Arc<Mutex<Breaker>>,
}

impl OwnerLink {
    pub(crate) fn new(client: Arc<dyn OwnerClient>) -> Self {
        Self { client, breaker: Arc::new(Mutex::new(Breaker::new())) }
    }

    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }

    pub(crate) fn failed(&self, error: &FetchError) {
        self.breaker().failure(Instant::now().into_std(), error.retry_after);
    }
}
