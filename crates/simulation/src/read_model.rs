//! A read model as readers see it, and what must hold there at every step and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use nudge_protocol::EntityId;
use nudge_runtime::Database;
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    followed::Followed,
    history::{Committed, History},
    profile::Profile,
    service::{AnyService, State, States},
    world::World,
};

/// Longest time from a commit until the read model has that version, when nothing fails but ordinary
/// delays and other entities, which must have no effect. Three transits of two seconds each from the owner
/// to the subscriber at its start, two callbacks of four seconds each, and what is in between.
const MAX_LATENESS: Duration = Duration::from_secs(15);

/// Checks a subscriber's read model of one entity.
pub(crate) struct ReadModel {
    pub(crate) world: Arc<World>,
    /// Whose it is.
    pub(crate) name: String,
    /// The prefix of lines about it: that name, if there are several services.
    pub(crate) whose: String,
    pub(crate) service: Arc<dyn AnyService>,
    /// A handle that no crash disturbs.
    pub(crate) db: Database,
    pub(crate) followed: Arc<Followed>,
    /// Whether an edit of its rows can be noticed.
    pub(crate) can_be_read: bool,
    seen: Mutex<BTreeMap<String, u64>>,
    /// Entities whose rows somebody has edited, until they are right again.
    pub(crate) edited: Mutex<BTreeSet<String>>,
    /// What it held when it was restored to an older copy.
    held: Mutex<Held>,
    /// What was last looked at, and after how much work of everyone's.
    looked: Mutex<Option<(u64, Arc<Snapshot>)>>,
}

/// What a read model held: an acknowledgement of that may already be on its way.
#[derive(Default)]
struct Held {
    versions: BTreeMap<String, u64>,
    dead: BTreeSet<String>,
}

/// What is in the database at one moment.
struct Snapshot {
    /// id → (version, deleted)
    applied: BTreeMap<String, (u64, bool)>,
    dead: Vec<String>,
    rows: BTreeMap<String, Value>,
}

impl ReadModel {
    pub(crate) async fn new(
        (name, whose): (&str, &str),
        service: Arc<dyn AnyService>,
        db: Database,
        history: Arc<History>,
    ) -> Arc<Self> {
        let can_be_read = db.run(service.can_be_read(&db)).await;
        Arc::new(Self {
            world: history.world.clone(),
            name: name.to_owned(),
            whose: whose.to_owned(),
            service,
            can_be_read: can_be_read.expect("the read model can be read"),
            db,
            followed: Followed::new(history),
            seen: Mutex::default(),
            edited: Mutex::default(),
            held: Mutex::default(),
            looked: Mutex::default(),
        })
    }

    pub(crate) fn history(&self) -> &Arc<History> {
        &self.followed.history
    }

    /// An ID as it stands in stories.
    fn named(&self, id: &str) -> String {
        self.history().named(id)
    }

    /// The read model is about to be restored to an older copy: versions may fall, once.
    pub(crate) fn is_put_back(&self) {
        let Some(snapshot) = self.snapshot() else { return };
        self.seen.lock().clear();
        let mut held = self.held.lock();
        held.dead.extend(snapshot.dead.iter().cloned());
        for (id, (version, _)) in &snapshot.applied {
            let most = held.versions.entry(id.clone()).or_default();
            *most = (*version).max(*most);
        }
    }

    /// The version of an entity here, as far as it was looked at.
    pub(crate) fn version_of(&self, id: &str) -> Option<u64> {
        self.seen.lock().get(id).copied()
    }

    /// Whether there are rows that somebody has edited.
    pub(crate) fn is_edited(&self) -> bool {
        !self.edited.lock().is_empty()
    }

    /// The state that each entity had in the version that is applied. `None` while one is of no owner's.
    pub(crate) fn applied(&self) -> Option<States> {
        let (snapshot, versions) = (self.snapshot()?, self.history().versions());
        let applied = snapshot.applied.iter().map(|(id, (version, _))| {
            let Committed { state, .. } = versions.at(id, *version)?;
            Some((id.clone(), State { version: *version, state: state.clone() }))
        });
        applied.collect()
    }

    /// The state that each entity has at its owner.
    pub(crate) fn at_the_owner(&self) -> States {
        let versions = self.history().versions();
        let known = versions.newest().filter_map(|(id, newest)| {
            let Committed { version, state, .. } = newest?;
            Some((id.to_owned(), State { version: *version, state: state.clone() }))
        });
        known.collect()
    }

    fn violated(&self, rule: impl std::fmt::Display) {
        self.world.violated(format!("{}{rule}", self.whose));
    }

    async fn look(&self) -> Result<Snapshot, sqlx::Error> {
        let mut tx = self.db.snapshot().await?;
        let sql = "SELECT id, version, deleted FROM nudge_applied WHERE entity = $1 ORDER BY id";
        let applied: Vec<(String, i64, i64)> =
            sqlx::query_as(sql).bind(self.service.entity()).fetch_all(&mut *tx).await?;
        let sql = "SELECT id FROM nudge_dead_letter WHERE entity = $1 ORDER BY id";
        let dead: Vec<(String,)> =
            sqlx::query_as(sql).bind(self.service.entity()).fetch_all(&mut *tx).await?;
        let rows = self.service.read(&mut tx).await?;
        tx.commit().await?;
        let applied = applied.into_iter().map(|(id, version, deleted)| {
            (id, (u64::try_from(version).unwrap_or(0), deleted == 1))
        });
        let dead = dead.into_iter().map(|(id,)| id).collect();
        Ok(Snapshot { applied: applied.collect(), dead, rows })
    }

    /// Reads while time stands still; not again if nobody has done anything since.
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let works = self.world.works_so_far();
        let mut looked = self.looked.lock();
        if let Some((_, snapshot)) = looked.as_ref().filter(|(then, _)| *then == works) {
            return Some(snapshot.clone());
        }
        // `run` with a plain driver does its work before it returns the first time.
        let snapshot = self.db.run(self.look()).now_or_never().expect("it does not wait");
        let snapshot = snapshot.map(Arc::new);
        let read = snapshot.inspect_err(|error| {
            self.violated(format!("the read model cannot be read: {error}"));
        });
        *looked = read.ok().map(|snapshot| (works, snapshot));
        looked.as_ref().map(|(_, snapshot)| snapshot.clone())
    }

    /// Versions only rise, and readers see what the owner had at that version.
    pub(crate) fn look_closely(&self) {
        let Some(snapshot) = self.snapshot() else { return };
        let Snapshot { applied, dead, rows } = &*snapshot;
        self.history().learn();
        let spoilt = self.followed.spoilt();
        let undisturbed = self.world.profile() == Profile::Benign;
        if let Some(id) = dead.iter().find(|id| undisturbed && !spoilt.contains(*id)) {
            let id = self.named(id);
            self.violated(format!("{id} is a dead letter although nothing is wrong with it"));
        }
        let versions = self.history().versions();
        let (mut seen, mut edited) = (self.seen.lock(), self.edited.lock());
        for (id, (version, deleted)) in applied {
            let named = self.named(id);
            let before = seen.insert(id.clone(), *version).unwrap_or(0);
            if before > *version {
                self.violated(format!("{named} went back from {before} to {version}"));
            }
            if before < *version {
                self.world.tell(format!(
                    "{}{named} is at {version}{}",
                    self.whose,
                    if *deleted { " (deleted)" } else { "" }
                ));
            }
            let Some(committed) = versions.at(id, *version) else {
                self.violated(format!("{named} is at {version}, which its owner never had"));
                continue;
            };
            if before < *version && !spoilt.contains(id) {
                let late = self.world.elapsed().saturating_sub(committed.at);
                self.world.arrived(late);
                if undisturbed && late > MAX_LATENESS {
                    self.violated(format!("{named}@{version} comes {late:?} after its commit"));
                }
            }
            let expected = committed.state.as_ref().map(|state| self.service.expected(state));
            if expected.is_none() != *deleted {
                self.violated(format!("{named} at {version}: deleted is {deleted}"));
            }
            if rows.get(id) == expected.as_ref() {
                edited.remove(id);
            } else if !edited.contains(id) {
                let row = rows.get(id);
                self.violated(format!("{named} at {version} reads {row:?}, not {expected:?}"));
            }
        }
        edited.retain(|id| applied.contains_key(id) || rows.contains_key(id));
        let strays = rows.keys().filter(|id| !applied.contains_key(*id) && !edited.contains(*id));
        for id in strays {
            self.violated(format!("{} can be read but was never applied", self.named(id)));
        }
    }

    /// What differs from the owner, possibly leaving out what could not be applied; `None` if nothing does.
    pub(crate) fn differs(&self, spoilt_too: bool) -> Option<String> {
        let except = if spoilt_too { BTreeSet::new() } else { self.followed.spoilt() };
        self.difference(&except).map(|difference| format!("{}{difference}", self.whose))
    }

    fn difference(&self, except: &BTreeSet<String>) -> Option<String> {
        let snapshot = self.snapshot()?;
        let Snapshot { applied, dead, rows } = &*snapshot;
        self.history().learn();
        let versions = self.history().versions();
        for (id, committed) in versions.newest().filter(|(id, _)| !except.contains(*id)) {
            let named = self.named(id);
            // What the owner lost for good, and nobody else has, was never there.
            let is_forgotten = !applied.contains_key(id) && !rows.contains_key(id);
            if committed.is_none() && is_forgotten && self.world.profile() == Profile::Unannounced {
                continue;
            }
            let Some(Committed { version, state, .. }) = committed else {
                return Some(format!("the restored owner has not published {named}"));
            };
            let expected = state.as_ref().map(|state| self.service.expected(state));
            if applied.get(id) != Some(&(*version, expected.is_none())) {
                let applied = applied.get(id);
                return Some(format!("{named} is at {applied:?}; its owner is at {version}"));
            }
            if rows.get(id) != expected.as_ref() {
                return Some(format!("{named} reads {:?}, not {expected:?}", rows.get(id)));
            }
        }
        if let Some(id) = rows.keys().find(|id| !applied.contains_key(*id)) {
            return Some(format!("{} can be read but was never applied", self.named(id)));
        }
        let dead = dead.iter().filter(|id| !except.contains(*id));
        let dead: Vec<_> = dead.map(|id| self.named(id)).collect();
        (!dead.is_empty()).then(|| format!("dead letters are left: {dead:?}"))
    }

    /// The service is given a version to apply, which must be newer than the read model's, or the same where
    /// its contents are compared.
    pub(crate) fn handed_over(&self, id: &EntityId, version: u64) {
        let at = self.version_of(id.as_str()).unwrap_or(0);
        let may_be_same = self.world.profile() == Profile::Unannounced;
        if version < at || version == at && !may_be_same {
            let id = self.named(id.as_str());
            self.violated(format!(
                "{id} @{version} is passed to apply, but the read model is at {at}"
            ));
        }
    }

    /// A delivery is about to be acknowledged, and never comes again: it must be in the read model or in
    /// the dead-letter table by now. It names this version, if any, and stands for the other one, since it
    /// replaced that version's message.
    pub(crate) fn acknowledged(&self, id: &EntityId, version: Option<u64>, stands_for: u64) {
        // Without a version, a subscriber cannot recognize an old answer.
        let told = match self.followed.was_misled(id.as_str()) {
            true => version.unwrap_or(0),
            false => version.unwrap_or(0).max(stands_for),
        };
        let Some(snapshot) = self.snapshot() else { return };
        let held = self.held.lock();
        let at = snapshot.applied.get(id.as_str()).map_or(0, |(version, _)| *version);
        let at = at.max(held.versions.get(id.as_str()).copied().unwrap_or(0));
        let is_dead =
            held.dead.contains(id.as_str()) || snapshot.dead.iter().any(|dead| dead == id.as_str());
        if at < told.max(1) && !is_dead {
            let id = self.named(id.as_str());
            self.violated(format!("{id} @{told} is acknowledged, but the read model is at {at}"));
        }
    }
}
