//! The service under test, as its author describes it.

use std::{collections::BTreeMap, future::Future};

use nudge_runtime::{BoxError, Database, Tx};
use nudge_subscriber_kit::Apply;
use serde_json::Value;

use crate::random::Random;

/// What the simulation has to know of a service: how its tables are made, its `apply`, and what can
/// be read afterwards.
pub trait Service: Send + Sync + 'static {
    /// What it follows.
    const ENTITY: &'static str;

    /// Its `apply`, as in production.
    type Handler: Apply;

    /// Makes its tables.
    fn migrate(&self, db: &Database) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Its `apply` on this database.
    fn handler(&self, db: &Database) -> Self::Handler;

    /// Some state of an entity, as its owner answers it. Take it from few values: the same state
    /// twice, and back and forth, is what finds faults.
    fn state(&self, random: &mut Random) -> Value;

    /// What a reader sees of an entity in this state: all of it, unless this says otherwise.
    fn expected(&self, state: &Value) -> Value {
        state.clone()
    }

    /// Everything that a reader sees now, by id.
    fn read(
        &self,
        tx: &mut Tx,
    ) -> impl Future<Output = Result<BTreeMap<String, Value>, sqlx::Error>> + Send;
}
