//! What the owner committed, version by version.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use nudge_protocol::EntityName;
use nudge_runtime::Database;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;

use crate::world::World;

/// A version of an entity: its state, or `None` if it was deleted; and when it was committed.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) version: u64,
    pub(crate) state: Option<Value>,
    pub(crate) at: Duration,
}

/// See the module documentation.
pub(crate) struct History {
    pub(crate) world: Arc<World>,
    owner_db: Database,
    entity: EntityName,
    /// What stands before its IDs in stories.
    prefix: String,
    /// Since the owner was restored, there are versions that no edit made.
    restored: AtomicBool,
    versions: Mutex<Versions>,
}

impl History {
    /// In a run of several entities, stories name them.
    pub(crate) fn new(
        world: Arc<World>,
        owner_db: Database,
        entity: EntityName,
        one_of_several: bool,
    ) -> Arc<Self> {
        let prefix = if one_of_several { format!("{entity}.") } else { String::new() };
        let (restored, versions) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { world, owner_db, entity, prefix, restored, versions })
    }

    pub(crate) fn entity(&self) -> &EntityName {
        &self.entity
    }

    /// An ID as it stands in stories; or something else of the entity.
    pub(crate) fn named(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    pub(crate) fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock()
    }

    /// Records an edit that is committed now.
    pub(crate) fn note(&self, id: &str, version: u64, state: Option<Value>) {
        let at = self.world.elapsed();
        self.versions().note(id, Committed { version, state, at });
    }

    /// From now on there may be versions that no edit made.
    pub(crate) fn may_be_renewed(&self) {
        self.restored.store(true, SeqCst);
    }

    /// Records that the owner is restored to these versions.
    pub(crate) fn owner_is_restored(&self, to: &BTreeMap<String, u64>) {
        self.versions().go_back(to);
        self.may_be_renewed();
    }

    /// Records versions that the owner's relay made. Each is recorded before an edit makes another.
    pub(crate) fn learn(&self) {
        if !self.restored.load(SeqCst) {
            return;
        }
        let sql = "SELECT log.id, log.version, state FROM nudge_change_log AS log \
                   LEFT JOIN owned ON owned.entity = log.entity AND owned.id = log.id \
                   WHERE log.entity = $1 ORDER BY log.id";
        let looking = sqlx::query_as(sql).bind(self.entity.as_str());
        let looking = looking.fetch_all(self.owner_db.reader());
        let looked = self.owner_db.run(looking).now_or_never().expect("it does not wait");
        let rows: Vec<(String, i64, Option<String>)> = looked.expect("the owner's database works");
        let mut versions = self.versions();
        for (id, version, state) in rows {
            let version = version.cast_unsigned();
            if versions.at(&id, version).is_none() {
                let state = state.map(|state| serde_json::from_str(&state).expect("JSON"));
                self.world.tell(format!("the restored owner has {} @{version}", self.named(&id)));
                versions.note(&id, Committed { version, state, at: self.world.elapsed() });
            }
        }
    }
}

/// All versions of each entity, and its current one.
#[derive(Default)]
pub(crate) struct Versions {
    of: BTreeMap<String, Vec<Committed>>,
    /// The current version of each entity: its last, unless the owner was restored. `None` while
    /// a restored owner has not published it yet.
    newest: BTreeMap<String, Option<usize>>,
}

impl Versions {
    fn note(&mut self, id: &str, committed: Committed) {
        let versions = self.of.entry(id.to_owned()).or_default();
        versions.push(committed);
        self.newest.insert(id.to_owned(), Some(versions.len() - 1));
    }

    /// The current version of each entity that a restored owner knows again.
    fn go_back(&mut self, to: &BTreeMap<String, u64>) {
        for (id, versions) in &self.of {
            let at = |version| versions.iter().position(|one| one.version == version);
            self.newest.insert(id.clone(), to.get(id).and_then(|version| at(*version)));
        }
    }

    pub(crate) fn of(&self, id: &str) -> &[Committed] {
        self.of.get(id).map_or(&[], Vec::as_slice)
    }

    /// Each ID, and its current version.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (&str, Option<&Committed>)> {
        self.newest.iter().map(|(id, at)| (id.as_str(), at.map(|at| &self.of[id][at])))
    }

    pub(crate) fn at(&self, id: &str, version: u64) -> Option<&Committed> {
        self.of(id).iter().find(|one| one.version == version)
    }
}
