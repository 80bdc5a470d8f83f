//! What must hold at every step, and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;

use nudge_protocol::{EntityId, Notification};
use nudge_publisher::sink::Message;
use nudge_runtime::Database;
use serde_json::Value;

use crate::{
    profile::Profile,
    service::Service,
    world::{World, lock},
};

/// A version of an entity: its state, or none when it was deleted; and when it was committed.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) version: u64,
    pub(crate) state: Option<Value>,
    pub(crate) at: Duration,
}

/// What the owner has committed, version by version.
#[derive(Default)]
pub(crate) struct History {
    versions: BTreeMap<String, Vec<Committed>>,
    /// What each entity is at now: the last of its versions, unless the owner was restored. None while
    /// a restored owner has not said so yet.
    newest: BTreeMap<String, Option<usize>>,
}

impl History {
    pub(crate) fn note(&mut self, id: &str, version: u64, state: Option<Value>, at: Duration) {
        let versions = self.versions.entry(id.to_owned()).or_default();
        versions.push(Committed { version, state, at });
        self.newest.insert(id.to_owned(), Some(versions.len() - 1));
    }

    /// The owner is restored: what each entity is at, of those that it knows again.
    pub(crate) fn go_back(&mut self, to: &BTreeMap<String, u64>) {
        for (id, versions) in &self.versions {
            let at = |version| versions.iter().position(|one| one.version == version);
            self.newest.insert(id.clone(), to.get(id).and_then(|version| at(*version)));
        }
    }

    pub(crate) fn of(&self, id: &str) -> &[Committed] {
        self.versions.get(id).map_or(&[], Vec::as_slice)
    }

    /// Each id, and what it is at.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (&str, Option<&Committed>)> {
        self.newest.iter().map(|(id, at)| (id.as_str(), at.map(|at| &self.versions[id][at])))
    }

    pub(crate) fn at(&self, id: &str, version: u64) -> Option<&Committed> {
        self.of(id).iter().find(|one| one.version == version)
    }
}

/// What the ports tell the checker.
pub(crate) trait Checker: Send + Sync {
    /// A message leaves the owner.
    fn on_the_wire(&self, message: &Message);
    /// A delivery is about to be acknowledged. It names this version, if any; and it stands for that
    /// one, since it replaced the message that told of it.
    fn acknowledged(&self, id: &EntityId, version: Option<u64>, stands_for: u64);
    /// A service is given a version to apply.
    fn handed_over(&self, id: &EntityId, version: u64);
}

/// Longest time from a commit until the read model has that version, when nothing fails but ordinary
/// delays and other entities: these must not be noticed. Three ways of two seconds each from the owner
/// to the subscriber at its start, two callbacks of four seconds each, and what lies between.
const MAX_LATENESS: Duration = Duration::from_secs(15);

/// Checks a service's read model.
pub(crate) struct ReadModel<S> {
    pub(crate) world: Arc<World>,
    pub(crate) service: Arc<S>,
    /// A handle that no crash disturbs.
    pub(crate) db: Database,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) owner_db: Database,
    /// Since the owner was restored, versions come up that no edit made.
    restored: AtomicBool,
    seen: Mutex<BTreeMap<String, u64>>,
    /// What it held when it was put back to an older copy.
    held: Mutex<Held>,
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

impl<S: Service> ReadModel<S> {
    pub(crate) fn new(
        world: Arc<World>,
        service: Arc<S>,
        db: Database,
        history: Arc<Mutex<History>>,
        owner_db: Database,
    ) -> Self {
        let (restored, seen, held) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Self { world, service, db, history, owner_db, restored, seen, held }
    }

    /// The owner is restored, to these versions.
    pub(crate) fn owner_is_restored(&self, to: &BTreeMap<String, u64>) {
        lock(&self.history).go_back(to);
        self.restored.store(true, SeqCst);
    }

    /// The read model is about to be put back to an older copy: versions may fall, once.
    pub(crate) fn is_put_back(&self) {
        let Some(Snapshot { applied, dead, .. }) = self.snapshot() else {
            return;
        };
        lock(&self.seen).clear();
        let mut held = lock(&self.held);
        held.dead.extend(dead);
        for (id, (version, _)) in applied {
            let most = held.versions.entry(id).or_default();
            *most = version.max(*most);
        }
    }

    /// Notes versions that the owner's relay has made. Each is noted before an edit makes another.
    pub(crate) fn learn(&self) {
        if !self.restored.load(SeqCst) {
            return;
        }
        let sql = "SELECT log.id, log.version, state FROM nudge_change_log AS log \
                   LEFT JOIN entity ON entity.id = log.id WHERE log.entity = $1 ORDER BY log.id";
        let looking = sqlx::query_as(sql).bind(S::ENTITY).fetch_all(self.owner_db.reader());
        let looked = self.owner_db.run(looking).now_or_never().expect("it does not wait");
        let rows: Vec<(String, i64, Option<String>)> = looked.expect("the owner's database works");
        let mut history = lock(&self.history);
        for (id, version, state) in rows {
            let version = version.cast_unsigned();
            if history.at(&id, version).is_none() {
                let state = state.map(|state| serde_json::from_str(&state).expect("JSON"));
                self.world.tell(format!("the restored owner has {id} @{version}"));
                history.note(&id, version, state, self.world.elapsed());
            }
        }
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
        match self.db.run(self.look()).now_or_never() {
            Some(Ok(snapshot)) => Some(snapshot),
            Some(Err(error)) => {
                self.world.violated(format!("the read model cannot be read: {error}"));
                None
            }
            None => unreachable!("work on a plain driver does not wait"),
        }
    }

    /// After every commit. A panic, of the service's own code for instance, would be lost in the task of
    /// the kit that calls this.
    pub(crate) fn check(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.look_closely())) {
            self.world.panicked(&*panic);
        }
    }

    /// Versions only rise, and what can be read is what the owner said at that version.
    fn look_closely(&self) {
        let Some(Snapshot { applied, dead, rows }) = self.snapshot() else {
            return;
        };
        self.learn();
        let spoilt = self.world.spoilt();
        let undisturbed = self.world.profile() == Profile::Benign;
        if let Some(id) = dead.iter().find(|id| undisturbed && !spoilt.contains(*id)) {
            self.world.violated(format!("{id} is a dead letter, and nothing is wrong with it"));
        }
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
            let Some(committed) = history.at(id, *version) else {
                self.world.violated(format!("{id} is at {version}, which its owner never had"));
                continue;
            };
            if before < *version && !spoilt.contains(id) {
                let late = self.world.elapsed().saturating_sub(committed.at);
                self.world.arrived(late);
                if undisturbed && late > MAX_LATENESS {
                    self.world.violated(format!("{id}@{version} comes {late:?} after its commit"));
                }
            }
            let expected = committed.state.as_ref().map(|state| self.service.expected(state));
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

    /// What is not yet as its owner has it, leaving some ids out; nothing when everything is.
    pub(crate) fn differs(&self, except: &BTreeSet<String>) -> Option<String> {
        let Snapshot { applied, dead, rows } = self.snapshot()?;
        self.learn();
        let history = lock(&self.history);
        for (id, committed) in history.newest().filter(|(id, _)| !except.contains(*id)) {
            let Some(Committed { version, state, .. }) = committed else {
                return Some(format!("{id} is not told of by the restored owner"));
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
        let dead: Vec<_> = dead.into_iter().filter(|id| !except.contains(id)).collect();
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

    /// Only what is newer than what the read model has.
    fn handed_over(&self, id: &EntityId, version: u64) {
        let at = lock(&self.seen).get(id.as_str()).copied().unwrap_or(0);
        if version <= at {
            self.world.violated(format!(
                "{id} @{version} is to be applied, and the read model is at {at}"
            ));
        }
    }

    /// What is acknowledged never comes again: it must be in the read model or in the dead-letter
    /// table by now.
    fn acknowledged(&self, id: &EntityId, version: Option<u64>, stands_for: u64) {
        // Who is told no version has no way to know an old answer for what it is.
        let told = match self.world.was_misled(id.as_str()) {
            true => version.unwrap_or(0),
            false => version.unwrap_or(0).max(stands_for),
        };
        let Some(Snapshot { applied, dead, .. }) = self.snapshot() else {
            return;
        };
        let held = lock(&self.held);
        let at = applied.get(id.as_str()).map_or(0, |(version, _)| *version);
        let at = at.max(held.versions.get(id.as_str()).copied().unwrap_or(0));
        let is_dead =
            held.dead.contains(id.as_str()) || dead.iter().any(|dead| dead == id.as_str());
        if at < told.max(1) && !is_dead {
            self.world
                .violated(format!("{id} @{told} is acknowledged, and the read model is at {at}"));
        }
    }
}
