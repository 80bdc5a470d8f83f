//! One batch of keys: callback, judgement, guarded apply, acknowledgement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use nudge_protocol::{
    EntityId, EntityName, Timestamp, Version,
    sync_api::{Item, ItemStatus},
};
use nudge_runtime::mutant::planted;
use tokio::time::Instant;

use crate::{
    intake::acknowledge::{Held, ack_all},
    apply::{Apply, EntityState},
    read_model::guard::{Applied, Applier},
    callback::breaker::Breaker,
    read_model::dead_letter::DeadLetters,
    work::ending::End,
    telemetry::events::{Event, EventKind, Events, event},
    work::outcome::{Answer, read_item},
    callback::owner_client::{FetchError, FetchErrorKind, OwnerClient, fetch_all},
    telemetry::progress::Progress,
    retry::InARow,
    settings::Settings,
    read_model::applied::Waiters,
    work::queue::{Finish, Run},
};

/// An owner, and the breaker that all its followed entities share.
#[derive(Clone)]
pub(crate) struct OwnerLink {
    pub(crate) client: Arc<dyn OwnerClient>,
    pub(crate) breaker: Arc<Mutex<Breaker>>,
}

impl OwnerLink {
    pub(crate) fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn failed(&self, error: &FetchError) {
        self.breaker().failure(Instant::now().into_std(), error.retry_after);
    }
}

/// What all batches of one followed entity share.
pub(crate) struct Batches<A> {
    pub(crate) entity: EntityName,
    pub(crate) owner: OwnerLink,
    pub(crate) applier: Applier<A>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) waiters: Waiters,
    pub(crate) events: Events,
    pub(crate) progress: Arc<Progress>,
    pub(crate) settings: Settings,
    /// How applying, and writing the dead-letter table, has gone lately.
    pub(crate) applying: InARow,
    pub(crate) parking: InARow,
    pub(crate) after_commit: Option<Arc<dyn Fn() + Send + Sync>>,
    /// The owner forgets what it deletes: see [`crate::Builder::owner_keeps_no_tombstones`].
    pub(crate) no_tombstones: bool,
}

/// What the owner said of a key; or why that cannot be read, and its version if there is one.
type Decoded = Result<Answer, (Option<Version>, String)>;

/// How a batch ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// Keys whose run is over.
    pub(crate) finished: Vec<(EntityId, Finish<Held>)>,
    /// Smaller batches to run in this one's place, to find the key that spoils it.
    pub(crate) split: Vec<Vec<Run<Held>>>,
}

impl<A: Apply> Batches<A> {
    /// Runs a batch to its end.
    pub(crate) async fn run(&self, mut runs: Vec<Run<Held>>) -> Ended {
        if planted("ack-before-apply") {
            ack_all(runs.iter_mut().flat_map(|run| std::mem::take(&mut run.tokens)).collect())
                .await;
        }
        let ids: Vec<_> = runs.iter().map(|run| run.id.clone()).collect();
        self.progress.callbacks.inc();
        self.progress.asked.inc_by(ids.len() as u64);
        if planted("asks-twice") {
            let _ = fetch_all(&*self.owner.client, &self.entity, &ids, A::FIELDS).await;
        }
        match fetch_all(&*self.owner.client, &self.entity, &ids, A::FIELDS).await {
            Ok(items) => {
                self.owner.breaker().success();
                self.progress.fetched.inc_by(items.len() as u64);
                let ends = self.judge_and_apply(&runs, items).await;
                Ended { finished: self.end(runs, ends).await, split: Vec::new() }
            }
            Err(error) => self.fetch_failed(runs, error).await,
        }
    }

    /// Finds out whose fault a failed callback is: the owner's (nothing counts against any key),
    /// or that of some key in the batch.
    async fn fetch_failed(&self, mut runs: Vec<Run<Held>>, error: FetchError) -> Ended {
        let owners_fault = match error.kind {
            FetchErrorKind::Unavailable | FetchErrorKind::Misconfigured => Some(error.clone()),
            FetchErrorKind::Refused | FetchErrorKind::Broken => {
                self.owner.client.probe(&self.entity).await.err()
            }
        };
        if let Some(fault) = owners_fault {
            self.owner.failed(&fault);
            self.progress.set_error(Some(fault.message.clone()));
            let after = self.settings.retry.initial;
            let end = |run: &Run<Held>| {
                let unsure = run.unsure;
                (
                    End::Later { after, failed: false, yields: false, spoils: false, unsure },
                    fault.message.clone(),
                )
            };
            let ends = runs.iter().map(end).collect();
            return Ended { finished: self.end(runs, ends).await, split: Vec::new() };
        }
        self.owner.breaker().success();
        if runs.len() > 1 {
            let right = runs.split_off(runs.len() / 2);
            return Ended { finished: Vec::new(), split: vec![runs, right] };
        }
        let refused = error.kind == FetchErrorKind::Refused;
        let end = |run: &Run<Held>| match refused {
            true => self.dead(run, Version::NONE, &error.message),
            false => self.again_or_park(run, &error.message, None, true),
        };
        let ends = runs.iter().map(|run| (end(run), error.message.clone())).collect();
        Ended { finished: self.end(runs, ends).await, split: Vec::new() }
    }

    /// Applies what the owner answered. Returns an end for each run, in order, with its reason.
    async fn judge_and_apply(&self, runs: &[Run<Held>], items: Vec<Item>) -> Vec<(End, String)> {
        let mut entities = Vec::with_capacity(items.len());
        let mut answers: HashMap<EntityId, Decoded> = HashMap::with_capacity(items.len());
        for item in items {
            self.events.emit(|| Event {
                version: item.version,
                deleted: Some(item.status == ItemStatus::Deleted),
                ..event(EventKind::Fetched, &self.entity, &item.id)
            });
            let read = read_item(&item, Timestamp::now()).map(|(answer, entity)| {
                entities.extend(entity);
                answer
            });
            answers.insert(item.id, read.map_err(|error| (item.version, error)));
        }
        if planted("unknown-taken-for-delete") {
            for run in runs {
                if answers.get(&run.id) != Some(&Ok(Answer::Unknown)) {
                    continue;
                }
                let version = run.floor.max(Version::new(1).unwrap_or_default());
                answers.insert(run.id.clone(), Ok(Answer::Deleted(version)));
                let (id, changed_at, state) = (run.id.clone(), Timestamp::now(), None);
                entities.push(EntityState { id, version, changed_at, state });
            }
        }
        if planted("delete-ignored") {
            entities.retain(|entity| entity.state.is_some());
        }
        if self.no_tombstones {
            self.take_unknown_for_deleted(runs, &mut answers, &mut entities).await;
        }
        let mut applied = HashMap::with_capacity(entities.len());
        if !entities.is_empty() {
            let changed: HashMap<EntityId, (Version, Timestamp, bool)> = entities
                .iter()
                .map(|e| (e.id.clone(), (e.version, e.changed_at, e.state.is_none())))
                .collect();
            applied.extend(self.applier.apply(&mut entities).await);
            self.applying.note(applied.values().any(|one| matches!(one, Applied::Later(_))));
            self.tell(&applied, &changed);
        }
        let end = |run: &Run<Held>| match answers.get(&run.id) {
            Some(Ok(answer)) => self.end_of(run, *answer, applied.get(&run.id)),
            Some(Err((None, error))) => (self.dead(run, Version::NONE, error), error.clone()),
            Some(Err((Some(version), error))) => {
                let refused = Applied::Refused(error.clone());
                self.end_of(run, Answer::Live(*version), Some(&refused))
            }
            // `fetch_all` answers for every id, or fails.
            None => (self.again_or_park(run, "not answered", None, true), "not answered".into()),
        };
        runs.iter().map(end).collect()
    }

    /// For an owner without tombstones: a key that is unknown for the second time, and that this
    /// read model holds, is deleted. What is not held may be new and not yet known to a replica.
    async fn take_unknown_for_deleted(
        &self,
        runs: &[Run<Held>],
        answers: &mut HashMap<EntityId, Decoded>,
        entities: &mut Vec<EntityState<A::State>>,
    ) {
        for run in runs.iter().filter(|run| run.attempts > 0) {
            if answers.get(&run.id) != Some(&Ok(Answer::Unknown)) {
                continue;
            }
            let Ok(Some(held)) = self.waiters.applied(&run.id).await else {
                continue;
            };
            // The owner gave the delete no version. One above what is held is enough for the
            // guard, and below whatever the owner makes of the id next.
            let next = Version::new(held.version.get() + 1);
            let version = if held.deleted { Ok(held.version) } else { next };
            let Ok(version) = version.map(|version| version.max(run.floor)) else {
                continue;
            };
            let (id, changed_at, state) = (run.id.clone(), Timestamp::now(), None);
            answers.insert(id.clone(), Ok(Answer::Deleted(version)));
            entities.push(EntityState { id, version, changed_at, state });
        }
    }

    /// Tells metrics, watchers and waiters what was committed.
    fn tell(
        &self,
        applied: &HashMap<EntityId, Applied>,
        changed: &HashMap<EntityId, (Version, Timestamp, bool)>,
    ) {
        let now = Timestamp::now();
        let (mut any, mut later) = (false, None);
        for (id, applied) in applied {
            let Some(&(version, changed_at, deleted)) = changed.get(id) else {
                continue;
            };
            let lag = now.seconds_since(changed_at).max(0.0);
            let kind = match applied {
                Applied::Newer => {
                    self.progress.applied.inc();
                    self.progress.lag.observe(lag);
                    self.progress.last_lag_micros.store((lag * 1e6) as i64, Relaxed);
                    EventKind::Applied
                }
                Applied::NotNewer => {
                    self.progress.ignored.inc();
                    EventKind::Ignored
                }
                Applied::Later(error) => {
                    later = Some(error);
                    continue;
                }
                Applied::Refused(_) => continue,
            };
            any = true;
            self.events.emit(|| Event {
                version: Some(version),
                lag_seconds: Some(lag),
                deleted: Some(deleted),
                ..event(kind, &self.entity, id)
            });
        }
        if any {
            self.progress.progressed();
            self.progress.set_error(None);
            self.waiters.wake(applied.keys());
            if let Some(after_commit) = &self.after_commit {
                after_commit();
            }
        }
        if let Some(error) = later {
            self.progress.set_error(Some(format!("database: {error}")));
        }
    }
}
