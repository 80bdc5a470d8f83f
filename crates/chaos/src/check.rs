//! What must hold at every step, and at the end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use nudge_protocol::{EntityId, Notification};
use nudge_publisher::sink::Message;
use nudge_runtime::Database;
use serde_json::Value;

use crate::{
    service::Service,
    world::{World, lock},
};

/// A version of an entity: its state, or none when it was deleted.
type Version = (u64, Option<Value>);

/// What the owner has committed, version by version.
#[derive(Default)]
pub(crate) struct History {
    versions: BTreeMap<String, Vec<Version>>,
}

impl History {
    pub(crate) fn note(&mut self, id: &str, version: u64, state: Option<Value>) {
        self.versions.entry(id.to_owned()).or_default().push((version, state));
    }

    pub(crate) fn of(&self, id: &str) -> &[Version] {
        self.versions.get(id).map_or(&[], Vec::as_slice)
    }

    /// Each id, and the version that it is at.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (&str, u64)> {
        self.versions.iter().filter_map(|(id, versions)| Some((id.as_str(), versions.last()?.0)))
    }

    fn at(&self, id: &str, version: u64) -> Option<&Option<Value>> {
        self.of(id).iter().find(|(at, _)| *at == version).map(|(_, state)| state)
    }
}

/// What the ports tell the checker.
pub(crate) trait Checker: Send + Sync {
    /// A message leaves the owner.
    fn on_the_wire(&self, message: &Message);
    /// A delivery is about to be acknowledged.
    fn acknowledged(&self, id: &EntityId, version: Option<u64>);
}

/// Checks a service's read model.
pub(crate) struct ReadModel<S> {
    pub(crate) world: Arc<World>,
    pub(crate) service: Arc<S>,
    /// A handle that no crash disturbs.
    pub(crate) db: Database,
    pub(crate) history: Arc<Mutex<History>>,
    seen: Mutex<BTreeMap<String, u64>>,
}

/// What is in the database at one moment.
struct Snapshot {
    /// id → (version, deleted)
    applied: BTreeMap<String, (u64, bool)>,
    dead: Vec<String>,
    rows: BTreeMap<String, Value>,
}

impl<S: Service> ReadModel<S> {
    pub(crate) fn new(
        world: Arc<World>,
        service: Arc<S>,
        db: Database,
        history: Arc<Mutex<History>>,
    ) -> Self {
        Self { world, service, db, history, seen: Mutex::default() }
    }

    async fn look(&self) -> Result<Snapshot, sqlx::Error> {
        let mut tx = self.db.snapshot().await?;
        let sql = "SELECT id, version, deleted FROM nudge_applied WHERE entity = $1 ORDER BY id";
        let applied: Vec<(String, i64, i64)> =
            sqlx::query_as(sql).bind(S::ENTITY).fetch_all(&mut *tx).await?;
        let sql = "SELECT id FROM nudge_dead_letter WHERE entity = $1 ORDER BY id";
        let dead: Vec<(String,)> = sqlx::query_as(sql).bind(S::ENTITY).fetch_all(&mut *tx).await?;
        let rows = self.service.read(&mut tx).await?;
        tx.commit().await?;
        let applied = applied.into_iter().map(|(id, version, deleted)| {
            (id, (u64::try_from(version).unwrap_or(0), deleted == 1))
        });
        let dead = dead.into_iter().map(|(id,)| id).collect();
        Ok(Snapshot { applied: applied.collect(), dead, rows })
    }

    /// Looks while the world stands still.
    fn snapshot(&self) -> Option<Snapshot> {
        // `run` with a plain driver does its work before it returns the first time.
        let looking = self.db.run(self.look());
        match futures_util::FutureExt::now_or_never(looking) {
            Some(Ok(snapshot)) => Some(snapshot),
            Some(Err(error)) => {
                self.world.violated(format!("the read model cannot be read: {error}"));
                None
            }
            None => unreachable!("work on a plain driver does not wait"),
        }
    }

    /// After every commit: versions only rise, and what can be read is what the owner said at that
    /// version.
    pub(crate) fn check(&self) {
        let Some(Snapshot { applied, rows, .. }) = self.snapshot() else {
            return;
        };
        let history = lock(&self.history);
        let mut seen = lock(&self.seen);
        for (id, (version, deleted)) in &applied {
            let before = seen.insert(id.clone(), *version).unwrap_or(0);
            if before > *version {
                self.world.violated(format!("{id} went back from {before} to {version}"));
            }
            if before < *version {
                self.world.tell(format!(
                    "{id} is at {version}{}",
                    if *deleted { " (deleted)" } else { "" }
                ));
            }
            let Some(state) = history.at(id, *version) else {
                self.world.violated(format!("{id} is at {version}, which its owner never had"));
                continue;
            };
            let expected = state.as_ref().map(|state| self.service.expected(state));
            if expected.is_none() != *deleted {
                self.world.violated(format!("{id} at {version}: deleted is {deleted}"));
            }
            if rows.get(id) != expected.as_ref() {
                let row = rows.get(id);
                self.world.violated(format!("{id} at {version} reads {row:?}, not {expected:?}"));
            }
        }
        for id in rows.keys().filter(|id| !applied.contains_key(*id)) {
            self.world.violated(format!("{id} can be read and was never applied"));
        }
    }

    /// What is not yet as its owner has it; nothing when everything is.
    pub(crate) fn differs(&self) -> Option<String> {
        let Snapshot { applied, dead, rows } = self.snapshot()?;
        let history = lock(&self.history);
        for (id, versions) in &history.versions {
            let Some((version, state)) = versions.last() else {
                continue;
            };
            let expected = state.as_ref().map(|state| self.service.expected(state));
            if applied.get(id) != Some(&(*version, expected.is_none())) {
                let applied = applied.get(id);
                return Some(format!("{id} is at {applied:?}; its owner is at {version}"));
            }
            if rows.get(id) != expected.as_ref() {
                return Some(format!("{id} reads {:?}, not {expected:?}", rows.get(id)));
            }
        }
        (!dead.is_empty()).then(|| format!("dead letters are left: {dead:?}"))
    }
}

impl<S: Service> Checker for ReadModel<S> {
    fn on_the_wire(&self, message: &Message) {
        let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let fields: Vec<_> = body.as_object().into_iter().flat_map(|body| body.keys()).collect();
        if fields != ["change", "id"] && fields != ["id", "change"] {
            self.world.violated(format!("a message holds {fields:?}"));
        }
        if Notification::from_json(&message.body).is_err() {
            self.world.violated("a message cannot be read");
        }
    }

    /// What is acknowledged never comes again: it must be in the read model or in the dead-letter
    /// table by now.
    fn acknowledged(&self, id: &EntityId, version: Option<u64>) {
        let Some(Snapshot { applied, dead, .. }) = self.snapshot() else {
            return;
        };
        let at = applied.get(id.as_str()).map_or(0, |(version, _)| *version);
        let covered = at >= version.unwrap_or(1) || dead.iter().any(|dead| dead == id.as_str());
        // Somebody else may have named a version that never was.
        let history = lock(&self.history);
        let real = version.is_none_or(|version| history.at(id.as_str(), version).is_some());
        if real && !covered {
            self.world.violated(format!(
                "{id}@{version:?} is acknowledged, and the read model is at {at}"
            ));
        }
    }
}
