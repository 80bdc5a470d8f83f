//! The task that owns a followed entity's work queue: it receives keys, and starts and ends batches. All work comes
//! through its one channel.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use nudge_protocol::{EntityId, Version, admin::BreakerState};
use nudge_runtime::{breaker::Permit, clock, mutated};
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    apply::Apply,
    callback::{
        owner_client::{FetchError, FetchErrorKind},
        owner_link::{Busy, Condition},
    },
    intake::acknowledge::{Held, progress_all},
    telemetry::progress::Progress,
    work::{
        batch::{Batches, Ended},
        look::Look,
        queue::WorkQueue,
        run::{Cause, Heard, Lane, Run, Work, lane_of},
        settle::Finish,
    },
};

/// After a batch of so many keys, more are on their way: the next one begins only this long after it, unless it is full
/// before. Each of many subscribers otherwise asks a busy owner hundreds of times a second for a few keys.
const GATHER_FROM_KEYS: usize = 16;
const GATHER_TIME: Duration = Duration::from_millis(25);
/// Longest pause between two checks of the acknowledgements held back.
const MAX_HELD_CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// For how many times `ack_wait` the broker is told that a run is in progress. A longer run hangs; its messages should
/// go to another replica, where they may do better.
const MAX_WAITS_PER_RUN: u32 = 4;
/// How often to look for what has waited and run longest: all keys are read for it.
const AGES_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of keys received from the channel at a time.
const INCOMING_AT_A_TIME: usize = 512;
/// Delay before a key whose batch panicked runs again.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// A key that needs work.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: EntityId,
    pub(crate) lane: Lane,
    pub(crate) floor: Version,
    pub(crate) unsure: bool,
    pub(crate) attempts: u32,
    pub(crate) held: Option<Held>,
    pub(crate) heard: Heard,
}

impl Incoming {
    /// Work that no message asked for: a replay, a parked row, a resync. A row may hold a floor that is too high to
    /// believe, from a message that an earlier release accepted, or because the clock was set back.
    pub(crate) fn unasked(id: EntityId, floor: Version, attempts: u32) -> Self {
        let now = clock::now();
        let unsure = floor > Version::highest_believed(now);
        let floor = if unsure { Version::NONE } else { floor };
        let heard = Heard::unasked(now);
        Self { id, lane: Lane::Backlog, floor, unsure, attempts, held: None, heard }
    }
}

/// What the worker knows of a batch in progress.
struct UnderWay {
    /// Its runs. If it panics, they run again; if it takes long, the broker is told that their messages are in
    /// progress.
    runs: Vec<Run<Held>>,
    began: Instant,
}

pub(crate) struct Worker<A> {
    batches: Arc<Batches<A>>,
    queue: WorkQueue<Held>,
    incoming: mpsc::Receiver<Incoming>,
    looks: mpsc::Receiver<Look>,
    paused: watch::Receiver<bool>,
    running: JoinSet<Ended>,
    under_way: HashMap<task::Id, UnderWay>,
    /// Halves of failed batches, to be run first.
    parts: VecDeque<Vec<Run<Held>>>,
    /// When to look next for what has waited and run longest.
    next_ages: Instant,
    /// Until when keys are gathered for the next batch.
    gathers_until: Option<Instant>,
    /// Whether the owner has been down since the last batch.
    was_open: bool,
    /// How many of the next that arrive had arrived before it was up again, and are not fresh any more.
    backlog_left: usize,
}

impl<A: Apply> Worker<A> {
    pub(crate) fn new(
        batches: Arc<Batches<A>>,
        incoming: mpsc::Receiver<Incoming>,
        looks: mpsc::Receiver<Look>,
        paused: watch::Receiver<bool>,
    ) -> Self {
        let queue = WorkQueue::new(batches.settings.queue);
        let (running, under_way, parts) = (JoinSet::new(), HashMap::new(), VecDeque::new());
        Self {
            batches,
            queue,
            incoming,
            looks,
            paused,
            running,
            under_way,
            parts,
            next_ages: Instant::now(),
            gathers_until: None,
            was_open: false,
            backlog_left: 0,
        }
    }

    /// Works until `stop`, then lets batches in progress finish within the deadline. Whatever is left is not
    /// acknowledged, and is redelivered.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let ack_wait = self.batches.settings.ack_wait;
        let pause = (ack_wait / 6).clamp(Duration::from_millis(1), MAX_HELD_CHECK_INTERVAL);
        let mut held_check = tokio::time::interval(pause);
        held_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = Vec::new();
        loop {
            let ask_again = self.start_batches();
            self.show();
            let due = self.queue.next_due().map(Instant::from_std);
            let wake = ask_again.into_iter().chain(due).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + MAX_HELD_CHECK_INTERVAL);
            let max_queued_keys = self.batches.settings.max_queued_keys;
            let room = max_queued_keys.saturating_sub(self.queue.queued()).min(INCOMING_AT_A_TIME);
            // While the owner is down, there is no point in receiving more.
            let open = self.batches.owner.breaker().state() != BreakerState::Closed;
            self.was_open |= open;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.running.join_next_with_id() => self.end(ended),
                Some(look) = self.looks.recv() => look.answer(&self.queue, Instant::now().into_std()),
                count = self.incoming.recv_many(&mut taken, room), if room > 0 && !open => {
                    if count == 0 {
                        break;
                    }
                    self.take_in(&mut taken);
                }
                Ok(()) = self.paused.changed() => {}
                _ = held_check.tick() => self.keep_held().await,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.drain().await;
    }

    fn take_in(&mut self, taken: &mut Vec<Incoming>) {
        let now = Instant::now().into_std();
        for Incoming { id, lane, floor, unsure, attempts, held, heard } in taken.drain(..) {
            let lane = if self.backlog_left > 0 { Lane::Backlog } else { lane };
            self.backlog_left = self.backlog_left.saturating_sub(1);
            let work = Work { lane, token: held, floor, unsure, attempts, heard };
            let coalesced = self.queue.push(id, work, now);
            self.batches.settling.progress.coalesced.inc_by(u64::from(coalesced));
        }
    }

    /// Starts as many batches as may run. Returns when to look again, if the breaker or a busy owner says to wait.
    fn start_batches(&mut self) -> Option<Instant> {
        let settings = self.batches.settings;
        let now = Instant::now();
        self.queue.tick(now.into_std());
        while !*self.paused.borrow() {
            let busy = Lane::ALL.map(|lane| self.batches.owner.busy(lane));
            let next = busy.into_iter().flatten().map(|busy| busy.until).min();
            let rooms = Lane::ALL.map(|lane| self.has_room(lane, busy[lane as usize]));
            let may = |lane: Lane| rooms[lane as usize];
            if !Lane::ALL.into_iter().any(may) {
                return next;
            }
            let waiting = !self.parts.is_empty() || self.queue.queued() > 0;
            if !waiting && self.batches.owner.breaker().state() == BreakerState::Closed {
                self.was_open = false;
                return None;
            }
            let permit = self.batches.owner.breaker().permit(now.into_std());
            match permit {
                Permit::Wait(until) => return Some(Instant::from_std(until)),
                Permit::Probe => {
                    self.probe();
                    continue;
                }
                Permit::Full => {}
            }
            let part = self.parts.iter().position(|part| may(lane_of(part)));
            if part.is_none()
                && let Some(until) = self.gathers(now)
            {
                return next.into_iter().chain([until]).min();
            }
            if std::mem::take(&mut self.was_open) {
                // What came while nothing could be asked for is a backlog now.
                self.queue.is_backlog_by_now();
                self.parts.iter_mut().flatten().for_each(|run| run.lane = Lane::Backlog);
                self.backlog_left = self.incoming.len();
            }
            let runs = match part.and_then(|at| self.parts.remove(at)) {
                Some(part) => part,
                None => self.queue.take(settings.max_batch_keys, may, now.into_std()),
            };
            if runs.is_empty() {
                return next;
            }
            self.start(runs);
        }
        None
    }

    /// Until when the next batch has to wait, if it is to have more keys.
    fn gathers(&self, now: Instant) -> Option<Instant> {
        let is_full = self.queue.queued() >= self.batches.settings.max_batch_keys;
        self.gathers_until.filter(|until| now < *until && !is_full)
    }

    /// Whether one more batch of this lane may run. Backlog that waits at the owner does not keep a fresh change waiting.
    fn has_room(&self, lane: Lane, busy: Option<Busy>) -> bool {
        let most = self.batches.settings.max_batches_in_flight;
        let of_lane = self.under_way.values().filter(|batch| lane_of(&batch.runs) == lane).count();
        let has_room = match lane {
            Lane::Backlog => self.running.len() < most,
            Lane::Fresh => self.running.len() <= most && of_lane < most,
        };
        has_room && busy.is_none_or(|busy| of_lane < busy.most)
    }

    fn start(&mut self, runs: Vec<Run<Held>>) {
        let (batches, known) = (self.batches.clone(), runs.clone());
        let many = runs.len() >= GATHER_FROM_KEYS;
        self.gathers_until = many.then(|| Instant::now() + GATHER_TIME);
        let task = self.running.spawn(async move { batches.run(runs).await });
        self.under_way.insert(task.id(), UnderWay { runs: known, began: Instant::now() });
    }

    /// Probes an owner that failed. If it is back, parked keys need not wait any longer.
    fn probe(&mut self) {
        let batches = self.batches.clone();
        self.running.spawn(async move {
            let Batches { owner, settling, .. } = &*batches;
            match batches.owners_condition(&[]).await {
                Condition::Well => batches.owner_is_well().await,
                Condition::Ill(error) => {
                    settling.progress.set_error(Some(error.message.clone()));
                    owner.failed(Lane::Backlog, &error);
                }
                // It answered the probe, and calls are let through.
                Condition::Busy => {}
                Condition::Unclear(_) | Condition::Unlisted(_) => owner.breaker().let_through(),
            }
            Ended::default()
        });
    }

    fn end(&mut self, ended: Result<(task::Id, Ended), task::JoinError>) {
        let now = Instant::now().into_std();
        match ended {
            Ok((task, ended)) => {
                self.under_way.remove(&task);
                ended.finished.into_iter().for_each(|finish| self.finish(finish, now));
                self.parts.extend(ended.split);
                self.queue.put_back(ended.left_out, now);
            }
            Err(error) => {
                let entity = &self.batches.settling.entity;
                tracing::error!(%entity, %error, "a batch or a probe panicked");
                match self.under_way.remove(&error.id()) {
                    Some(batch) => self.panicked(batch.runs, now),
                    // Without a result of its probe, the breaker would wait forever.
                    None => {
                        let panicked = "the client for the owner panicked";
                        let error = FetchError::new(FetchErrorKind::Broken, panicked);
                        self.batches.owner.failed(Lane::Backlog, &error);
                    }
                }
            }
        }
    }

    /// Splits the batch that panicked into two halves, until the key that causes it is alone. The runs keep their
    /// acknowledgements.
    fn panicked(&mut self, mut runs: Vec<Run<Held>>, now: std::time::Instant) {
        if runs.len() > 1 {
            let right = runs.split_off(runs.len() / 2);
            self.parts.extend([runs, right]);
            return;
        }
        for run in runs {
            self.queue.again(run, Cause::KeyFailed, AFTER_PANIC, now);
        }
    }

    fn finish(&mut self, finish: Finish, now: std::time::Instant) {
        match finish {
            Finish::Done(id) => self.queue.done(&id, now),
            Finish::Again { run, cause, after } => {
                mutated!(KeyLeakedOnError: self.queue.again(run, cause, after, now) => drop(run));
            }
        }
    }

    /// Tells the broker that messages which have waited for long are still in progress.
    async fn keep_held(&mut self) {
        let (now, ack_wait) = (Instant::now(), self.batches.settings.ack_wait);
        let (old, hangs) = (ack_wait / 3, ack_wait * MAX_WAITS_PER_RUN);
        let old = |held: &&mut Held| now.duration_since(held.touched) > old;
        let under_way = self.under_way.values_mut();
        let under_way = under_way.filter(|batch| now.duration_since(batch.began) < hangs);
        let under_way = under_way.flat_map(|batch| &mut batch.runs);
        let parts = self.parts.iter_mut().flatten();
        let under_way = under_way.chain(parts).flat_map(|run| &mut run.tokens);
        let held = self.queue.tokens_mut().chain(under_way);
        progress_all(held.filter(old)).await;
    }

    fn show(&mut self) {
        let progress: &Progress = &self.batches.settling.progress;
        let now = Instant::now();
        if now >= self.next_ages {
            let ago = |since: Instant| clock::ago(now.duration_since(since));
            progress.oldest_waiting.since(self.queue.oldest().map(|since| ago(since.into())));
            progress
                .longest_run
                .since(self.under_way.values().map(|batch| batch.began).min().map(ago));
            self.next_ages = now + AGES_INTERVAL;
        }
        progress.queued.set(self.queue.queued() as i64);
        progress.processing.set(self.queue.processing() as i64);
        progress.retrying.set(self.queue.retrying() as i64);
    }

    async fn drain(&mut self) {
        let deadline = Instant::now() + self.batches.settings.stop_deadline;
        while let Ok(Some(ended)) =
            tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await
        {
            self.end(ended);
        }
        self.show();
    }
}
