//! A service whose `apply` is a mirror.

use std::collections::BTreeMap;

use nudge_chance::Random;
use nudge_runtime::{BoxError, Database, Tx, database::Migration};
use nudge_subscriber_kit::Mirror;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::service::Service;

/// A [`Service`] whose `apply` is a [`Mirror`]: the simulation knows how to read it.
///
/// ```no_run
/// use nudge_simulation::{Mirrored, Profile, explore};
/// use nudge_subscriber_kit::Mirror;
/// use serde_json::json;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Store { name: String, open: bool }
///
/// let stores = || Mirror::<Store>::table("store");
/// let service = Mirrored::new("store", stores, |random| {
///     json!({"name": random.one_of(&["달빛국수", "별빛김밥"]), "open": random.chance(500)})
/// });
/// explore(service, Profile::Lossy, 0..20);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Mirrored<S> {
    entity: &'static str,
    mirror: fn() -> Mirror<S>,
    state: fn(&mut Random) -> Value,
    keeps: Option<(&'static str, &'static [Migration])>,
}

impl<S> Mirrored<S> {
    /// Follows `entity` with `mirror`. `state` makes states of it, like [`Service::state`].
    pub fn new(
        entity: &'static str,
        mirror: fn() -> Mirror<S>,
        state: fn(&mut Random) -> Value,
    ) -> Self {
        Self { entity, mirror, state, keeps: None }
    }

    /// Creates tables that the service keeps itself, as the kit's `Service::keeps` does: SQL of [`Mirror::with`] may write
    /// to them.
    pub fn keeps(mut self, component: &'static str, migrations: &'static [Migration]) -> Self {
        self.keeps = Some((component, migrations));
        self
    }
}

impl<S: Serialize + DeserializeOwned + Send + Sync + 'static> Service for Mirrored<S> {
    type Handler = Mirror<S>;

    fn entity(&self) -> &'static str {
        self.entity
    }

    async fn migrate(&self, db: &Database) -> Result<(), BoxError> {
        match self.keeps {
            Some((component, migrations)) => Ok(db.migrate(component, migrations).await?),
            None => Ok(()),
        }
    }

    fn handler(&self, _: &Database) -> Mirror<S> {
        (self.mirror)()
    }

    fn state(&self, random: &mut Random) -> Value {
        (self.state)(random)
    }

    fn expected(&self, state: &Value) -> Value {
        (self.mirror)().expected(state).expect("a state that the mirror can read")
    }

    async fn read(&self, tx: &mut Tx) -> Result<BTreeMap<String, Value>, sqlx::Error> {
        (self.mirror)().read_all(tx).await
    }
}
