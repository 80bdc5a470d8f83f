//! One batch of keys: callback, outcome, guarded apply.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use nudge_protocol::{
    EntityId, Timestamp, Version,
    sync_api::{Item, ItemStatus},
};
use nudge_runtime::{
    alerts::What,
    clock, mutated,
    traces::{Context, within},
};
use tokio::time::Instant;

use crate::{
    apply::{Apply, EntityState},
    callback::{
        owner_client::{FetchError, FetchErrorKind, fetch_some},
        owner_link::{Condition, OwnerLink},
    },
    intake::acknowledge::Held,
    read_model::{
        applied::Waiters,
        guard::{Applied, Applier, panic_message},
    },
    retry::InARow,
    settings::Settings,
    telemetry::{
        events::{Event, EventKind, event},
        runs::{Answered, Call},
    },
    work::{
        ending::{End, Pace, dead},
        outcome::{Answer, Applying, judge_applying, read_item},
        run::{Run, lane_of},
        settle::{Finish, Settling},
    },
};

/// What all batches of one followed entity share.
pub(crate) struct Batches<A> {
    pub(crate) owner: OwnerLink,
    pub(crate) applier: Applier<A>,
    /// The fields to ask the owner for; empty means all.
    pub(crate) fields: &'static [&'static str],
    pub(crate) settling: Settling,
    pub(crate) waiters: Waiters,
    pub(crate) settings: Settings,
    /// Consecutive failures to apply.
    pub(crate) applying: InARow,
    pub(crate) after_commit: Option<Arc<dyn Fn() + Send + Sync>>,
    /// The owner forgets what it deletes: see [`crate::Builder::owner_keeps_no_tombstones`].
    pub(crate) no_tombstones: bool,
}

/// The owner's answer for a key; or its version, if there is one, and why it cannot be read.
type Decoded = Result<Answer, (Option<Version>, String)>;

/// How a batch ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// Runs that are over.
    pub(crate) finished: Vec<Finish>,
    /// Smaller batches to run instead of this one, to find the key that makes it fail or is left out.
    pub(crate) split: Vec<Vec<Run<Held>>>,
    /// Runs that the answer had no room for: they have not taken place.
    pub(crate) left_out: Vec<Run<Held>>,
}

/// The runs of a batch whose keys were answered; those that were left out although later ones were not; and the rest, which were
/// too many for one answer.
fn sorted(runs: Vec<Run<Held>>, answered: &HashSet<EntityId>) -> [Vec<Run<Held>>; 3] {
    let last = runs.iter().rposition(|run| answered.contains(&run.id));
    let mut sorted = <[Vec<_>; 3]>::default();
    for (place, run) in runs.into_iter().enumerate() {
        let kind = match answered.contains(&run.id) {
            true => 0,
            false if Some(place) < last => 1,
            false => 2,
        };
        sorted[kind].push(run);
    }
    sorted
}

impl<A: Apply> Batches<A> {
    /// Runs a batch to its end: one callback, however much it answers. Asking for the rest at once would keep what was
    /// answered, and all other work on these keys, waiting for as long as a busy owner needs for all of them.
    pub(crate) async fn run(&self, runs: Vec<Run<Held>>) -> Ended {
        let Settling { entity, progress, .. } = &self.settling;
        let ids: Vec<_> = runs.iter().map(|run| run.id.clone()).collect();
        progress.calls_back(ids.len());
        let (began, asked_at) = (Instant::now(), clock::now());
        let callback = self.settling.traces.calls_back(&ids, asked_at);
        let span = callback.as_ref().map(|callback| callback.context);
        let lane = lane_of(&runs);
        let calling = self.owner.calls(lane);
        let fetching = fetch_some(self.owner.in_lane(lane), entity, &ids, self.fields);
        let fetched = within(span, fetching).await;
        if let Some(callback) = callback {
            callback.ends(entity, ids.len(), &fetched);
        }
        progress.called_back(began.elapsed(), &fetched);
        let items = match fetched {
            Ok(items) => items,
            Err(error) => {
                drop(calling);
                return self.fetch_failed(runs, error, asked_at, span).await;
            }
        };
        // An answer keeps its place among those that may be asked for until it is applied, and another batch may follow.
        let answered: HashSet<EntityId> = items.iter().map(|item| item.id.clone()).collect();
        let [answered, skipped, left_out] = sorted(runs, &answered);
        // Among others, an entity that the owner cannot read would be left out over and over.
        let split = if skipped.is_empty() { Vec::new() } else { vec![skipped] };
        let ended = self.answered(answered, items, asked_at, span).await;
        drop(calling);
        Ended { left_out, split, ..ended }
    }

    /// The owner answered these.
    async fn answered(
        &self,
        runs: Vec<Run<Held>>,
        items: Vec<Item>,
        asked_at: Timestamp,
        span: Option<Context>,
    ) -> Ended {
        let answered_at = clock::now();
        self.owner_is_well().await;
        let live = items.iter().filter(|item| item.status == ItemStatus::Live);
        self.owner.answered(live.map(|item| &item.id));
        self.settling.progress.fetched.inc_by(items.len() as u64);
        let (ends, answers) = self.judge_and_apply(&runs, items).await;
        self.settling.traces.applied(&self.settling.entity, span, answered_at, answers.len());
        let call = Call { asked_at, answered_at: Some(answered_at), answers, span };
        self.settle(runs, ends, call).await
    }

    async fn settle(&self, runs: Vec<Run<Held>>, ends: Vec<End>, call: Call) -> Ended {
        let ends = runs.into_iter().zip(ends).collect();
        Ended { finished: self.settling.settle(ends, &call).await, ..Ended::default() }
    }

    /// What ends depend on at this moment.
    fn pace(&self) -> Pace<'_> {
        let retrying = self.settling.progress.retrying.get();
        Pace {
            settings: &self.settings,
            retrying: usize::try_from(retrying).unwrap_or(0),
            database_failures: self.applying.count(),
        }
    }

    /// Finds out whose fault a failed callback is. If it is the owner's, nothing counts against any key. If it is that
    /// of some key in the batch, or the owner is too busy to say, the batch is split until that key is alone.
    async fn fetch_failed(
        &self,
        mut runs: Vec<Run<Held>>,
        error: FetchError,
        asked_at: Timestamp,
        span: Option<Context>,
    ) -> Ended {
        let condition = self.whose_fault(&runs, &error).await;
        if matches!(condition, Condition::Busy) {
            self.owner_failed(&runs, &error);
        } else if let Condition::Ill(fault)
        | Condition::Unclear(fault)
        | Condition::Unlisted(fault) = &condition
        {
            self.owner_failed(&runs, fault);
        } else {
            self.owner_is_well().await;
        }
        if !matches!(condition, Condition::Ill(_)) && runs.len() > 1 {
            let right = runs.split_off(runs.len() / 2);
            return Ended { split: vec![runs, right], ..Ended::default() };
        }
        let pace = self.pace();
        let end = |run: &Run<Held>| match (&condition, error.kind) {
            (Condition::Ill(fault) | Condition::Unlisted(fault), _) => {
                pace.owner_failed(&fault.message)
            }
            (Condition::Well, FetchErrorKind::Refused) => dead(run, Version::NONE, &error.message),
            (Condition::Well | Condition::Unclear(_) | Condition::Busy, _) => {
                pace.key_failed(run, &error.message)
            }
        };
        let ends = runs.iter().map(end).collect();
        self.settle(runs, ends, Call::failed(asked_at, span)).await
    }

    /// Counts a failure that may be the owner's.
    fn owner_failed(&self, runs: &[Run<Held>], fault: &FetchError) {
        if self.owner.failed(lane_of(runs), fault) {
            let (entity, error) = (&self.settling.entity, &*fault.message);
            tracing::warn!(%entity, error, "the owner does not answer: retrying");
            self.settling.progress.alarm.raise(What::BreakerOpen, None);
        }
        self.settling.progress.set_error(Some(fault.message.clone()));
    }

    /// The owner's condition after a callback for these keys failed.
    async fn whose_fault(&self, runs: &[Run<Held>], error: &FetchError) -> Condition {
        let owners = mutated!(FailureIsTheOwners: error.kind.is_owners() => true);
        if owners {
            return Condition::Ill(error.clone());
        }
        let ids: Vec<_> = runs.iter().map(|run| run.id.clone()).collect();
        self.owners_condition(&ids).await
    }

    /// Notes that the owner answers. If it did not before, parked keys need not wait any longer.
    pub(crate) async fn owner_is_well(&self) {
        let again = mutated!(BreakerNeverCloses: self.owner.breaker().success() => false);
        if again {
            tracing::info!(entity = %self.settling.entity, "the owner answers again");
            self.settling.progress.set_error(None);
            self.settling.progress.alarm.clear(What::BreakerOpen, None);
            self.settling.hasten_parked().await;
        }
    }

    /// The owner's condition, judged by other keys than these.
    pub(crate) async fn owners_condition(&self, not: &[EntityId]) -> Condition {
        self.owner.condition(&self.settling.entity, self.fields, not, &self.waiters).await
    }

    /// Applies the owner's answers. Returns an end for each run, in order, and what was answered.
    async fn judge_and_apply(
        &self,
        runs: &[Run<Held>],
        items: Vec<Item>,
    ) -> (Vec<End>, HashMap<EntityId, Answered>) {
        let mut entities = Vec::with_capacity(items.len());
        let mut answers: HashMap<EntityId, Decoded> = HashMap::with_capacity(items.len());
        for item in items {
            self.settling.events.emit(|| Event {
                version: item.version,
                deleted: Some(item.status == ItemStatus::Deleted),
                ..event(EventKind::Fetched, &self.settling.entity, &item.id)
            });
            let read = read_item(&item, clock::now()).map(|(answer, entity)| {
                entities.extend(entity);
                answer
            });
            answers.insert(item.id, read.map_err(|error| (item.version, error)));
        }
        if self.no_tombstones {
            self.take_unknown_for_deleted(runs, &mut answers, &mut entities).await;
        }
        let (applied, answered) = self.apply(entities).await;
        let pace = self.pace();
        let end = |run: &Run<Held>| match answers.get(&run.id) {
            Some(Ok(answer)) => pace.answered(run, *answer, applied.get(&run.id)),
            Some(Err((None, error))) => dead(run, Version::NONE, error),
            Some(Err((Some(version), error))) => {
                let refused = Applied::Refused(error.clone());
                pace.answered(run, Answer::Live(*version), Some(&refused))
            }
            // Cannot happen: each of these runs has an answer.
            None => pace.key_failed(run, "not answered"),
        };
        (runs.iter().map(end).collect(), answered)
    }

    /// Passes entities through the guard, and reports the results to metrics, watchers and waiters. Returns
    /// the results, and the entities without their states.
    async fn apply(
        &self,
        mut entities: Vec<EntityState<A::State>>,
    ) -> (HashMap<EntityId, Applied>, HashMap<EntityId, Answered>) {
        if entities.is_empty() {
            return (HashMap::new(), HashMap::new());
        }
        let answered = |e: &EntityState<A::State>| {
            let (version, changed_at, deleted) = (e.version, e.changed_at, e.state.is_none());
            (e.id.clone(), Answered { version, changed_at, deleted, applied: false })
        };
        let mut answered: HashMap<_, _> = entities.iter().map(answered).collect();
        let mut applied = HashMap::from_iter(self.applier.apply(&mut entities).await);
        let (in_a_row, most) = (self.applying.count(), self.settings.max_attempts_in_memory);
        let applying = judge_applying(&mut applied, in_a_row, most);
        self.applying.note(applying == Applying::Fails);
        // Some were parked only because it failed for so long.
        if applying == Applying::Works && in_a_row >= most {
            self.settling.hasten_parked().await;
        }
        self.tell(&applied, &mut answered);
        (applied, answered)
    }

    /// For an owner without tombstones: a key that is unknown for the second time and is in this read model counts as
    /// deleted. A key that is not in the read model may be new, and the owner's replica that answered may lag behind.
    async fn take_unknown_for_deleted(
        &self,
        runs: &[Run<Held>],
        answers: &mut HashMap<EntityId, Decoded>,
        entities: &mut Vec<EntityState<A::State>>,
    ) {
        for run in runs {
            let unknown = answers.get(&run.id) == Some(&Ok(Answer::Unknown));
            if !unknown || !self.was_unknown(run).await {
                continue;
            }
            let Ok(Some(held)) = self.waiters.applied(&run.id).await else {
                continue;
            };
            // The owner gives the deletion no version. One more than the applied version passes the guard, and is below
            // any version that the owner gives the ID later.
            let next = Version::new(held.version.get() + 1);
            let version = if held.deleted { Ok(held.version) } else { next };
            let Ok(version) = version.map(|version| version.max(run.floor)) else {
                continue;
            };
            let (id, changed_at, state) = (run.id.clone(), clock::now(), None);
            answers.insert(id.clone(), Ok(Answer::Deleted(version)));
            entities.push(EntityState { id, version, changed_at, state });
        }
    }

    /// Whether the owner did not know it before, either, long enough ago for this to be a second look. If it was
    /// parked for that, only the table tells.
    async fn was_unknown(&self, run: &Run<Held>) -> bool {
        let (now, pause) = (Instant::now().into_std(), self.settings.second_look_after);
        let parked = async || self.settling.dead_letters.was_unknown(&run.id, pause).await;
        match run.unknown_since {
            Some(since) => now.duration_since(since) >= pause,
            None => run.attempts > 0 && parked().await.unwrap_or(false),
        }
    }

    /// Reports what was committed to metrics, watchers and waiters.
    fn tell(
        &self,
        applied: &HashMap<EntityId, Applied>,
        answered: &mut HashMap<EntityId, Answered>,
    ) {
        let (now, progress) = (clock::now(), &self.settling.progress);
        let (mut any, mut later) = (false, None);
        for (id, applied) in applied {
            let Some(answer) = answered.get_mut(id) else {
                continue;
            };
            let Answered { version, changed_at, deleted, .. } = *answer;
            answer.applied = matches!(applied, Applied::Newer | Applied::Again);
            let lag = now.seconds_since(changed_at).max(0.0);
            let kind = match applied {
                Applied::Newer => {
                    progress.applied.inc();
                    progress.applied_after(changed_at, lag);
                    EventKind::Applied
                }
                // This is no lag: the change was applied in time, and is only stored in a new form now.
                Applied::Again => {
                    progress.applied.inc();
                    EventKind::Applied
                }
                Applied::NotNewer => {
                    progress.ignored.inc();
                    EventKind::Ignored
                }
                Applied::Later(error) | Applied::Unclear(error) | Applied::Failed(error) => {
                    later = Some(error);
                    continue;
                }
                Applied::Refused(_) => continue,
            };
            any = true;
            progress.alarm.clear(What::DeadLetter, Some(id));
            self.settling.events.emit(|| Event {
                version: Some(version),
                lag_seconds: Some(lag),
                deleted: Some(deleted),
                ..event(kind, &self.settling.entity, id)
            });
        }
        if any {
            progress.progressed();
            progress.set_error(None);
            self.waiters.wake(applied.keys());
            self.committed();
        }
        if let Some(error) = later {
            progress.set_error(Some(format!("database: {error}")));
        }
    }

    /// Calls the service's hook. Even if it panics, the states are committed.
    fn committed(&self) {
        let Some(after_commit) = &self.after_commit else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| after_commit())) {
            let error = panic_message("the after-commit hook", &*panic);
            tracing::error!(entity = %self.settling.entity, error);
        }
    }
}
