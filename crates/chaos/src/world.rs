//! What everyone in a run shares: time, chance, the trace, and what went wrong so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    broker::Broker,
    fault::{Fault, Profile},
    random::Random,
};

/// The first instant of every run, in unix microseconds: a morning in 2026.
const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

/// A story that is longer has no end.
const MAX_LINES: usize = 20_000;

/// What one seed is run with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) profile: Profile,
    pub(crate) seed: u64,
    /// Which of the faults that chance would bring do happen, by their number; none means all. For
    /// shrinking.
    pub(crate) allowed: Option<Vec<usize>>,
}

/// A fault that happened.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) number: usize,
    pub(crate) fault: Fault,
}

/// See the module's description.
pub(crate) struct World {
    plan: Plan,
    start: Instant,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// Chance has its say, but nothing comes of it.
    healed: bool,
    drawn: usize,
    happened: Vec<Happened>,
    trace: Vec<(Duration, String)>,
    hash: DefaultHasher,
    violations: Vec<String>,
    skew_micros: i64,
    owner_back_at: Duration,
    /// The time, while database work runs on another clock.
    stopped: Option<Duration>,
    broker: Broker,
    calls: u64,
    consequences: BTreeMap<Fault, u64>,
    latest: Duration,
    /// Ids that could not be applied at some time.
    spoilt: BTreeSet<String>,
    /// When each program was last told of each id, and last asked for it.
    heard: BTreeMap<(String, String), Heard>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    told: Duration,
    asked: Duration,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let random = Random::new(plan.seed ^ ((plan.profile as u64) << 56));
        let state = State {
            random,
            healed: false,
            drawn: 0,
            happened: Vec::new(),
            trace: Vec::new(),
            hash: DefaultHasher::new(),
            violations: Vec::new(),
            skew_micros: 0,
            owner_back_at: Duration::ZERO,
            stopped: None,
            broker: Broker::default(),
            calls: 0,
            consequences: BTreeMap::new(),
            latest: Duration::ZERO,
            spoilt: BTreeSet::new(),
            heard: BTreeMap::new(),
        };
        Arc::new(Self { plan, start: Instant::now(), state: Mutex::new(state) })
    }

    pub(crate) fn profile(&self) -> Profile {
        self.plan.profile
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.state().stopped.unwrap_or_else(|| self.start.elapsed())
    }

    /// Time stands still until [`go_on`](Self::go_on).
    pub(crate) fn stand_still(&self) {
        let now = self.elapsed();
        self.state().stopped = Some(now);
    }

    pub(crate) fn go_on(&self) {
        self.state().stopped = None;
    }

    /// What clocks show.
    pub(crate) fn now_micros(&self) -> i64 {
        let elapsed = i64::try_from(self.elapsed().as_micros()).unwrap_or(i64::MAX);
        EPOCH_MICROS + elapsed + self.state().skew_micros
    }

    /// Whether the owner is away. It may go just now, for at most so long.
    pub(crate) fn owner_is_down(&self, longest: Duration) -> bool {
        if self.strikes(Fault::OwnerDown) {
            let pause = self.up_to(longest);
            self.tell(format!("the owner is away for {pause:?}"));
            let back = self.elapsed() + pause;
            self.state().owner_back_at = back;
        }
        let now = self.elapsed();
        let state = self.state();
        !state.healed && now < state.owner_back_at
    }

    /// Makes clocks jump.
    pub(crate) fn skew(&self, micros: i64) {
        self.state().skew_micros = micros;
    }

    /// Something happened that a reader of the story wants to know.
    pub(crate) fn tell(&self, line: impl Into<String>) {
        let (at, line) = (self.elapsed(), line.into());
        let mut state = self.state();
        state.hash.write_u128(at.as_nanos());
        state.hash.write(line.as_bytes());
        state.trace.push((at, line));
        assert!(
            state.trace.len() < MAX_LINES,
            "a run without end: {:#?}",
            &state.trace[MAX_LINES - 50..]
        );
    }

    /// A rule is broken.
    pub(crate) fn violated(&self, rule: impl Into<String>) {
        let rule = rule.into();
        self.tell(format!("VIOLATED: {rule}"));
        self.state().violations.push(rule);
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.state().violations.is_empty()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// A number below `limit`.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.state().random.below(limit)
    }

    /// A length of time up to `max`, at least a microsecond.
    pub(crate) fn up_to(&self, max: Duration) -> Duration {
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX).max(2);
        Duration::from_micros(1 + self.below(micros))
    }

    /// Runs with the random numbers.
    pub(crate) fn with_random<T>(&self, work: impl FnOnce(&mut Random) -> T) -> T {
        work(&mut self.state().random)
    }

    /// Whether this fault happens now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let permille = self.plan.profile.permille(fault);
        let mut state = self.state();
        if permille == 0 || !state.random.chance(permille) || state.healed {
            return false;
        }
        let number = state.drawn;
        state.drawn += 1;
        if self.plan.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&number)) {
            return false;
        }
        state.happened.push(Happened { number, fault });
        drop(state);
        self.tell(format!("fault #{number}: {fault}"));
        true
    }

    /// From here on nothing goes wrong.
    pub(crate) fn heal(&self) {
        self.state().healed = true;
        self.tell("everything heals");
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.state().healed
    }

    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.state().happened.clone()
    }

    /// The broker's state.
    pub(crate) fn with_broker<T>(&self, work: impl FnOnce(&mut Broker) -> T) -> T {
        work(&mut self.state().broker)
    }

    /// Something came of chance that a run of many seeds must have seen.
    pub(crate) fn note(&self, consequence: Fault) {
        *self.state().consequences.entry(consequence).or_default() += 1;
    }

    pub(crate) fn consequences(&self) -> BTreeMap<Fault, u64> {
        self.state().consequences.clone()
    }

    /// An id cannot be applied from here on.
    pub(crate) fn spoil(&self, id: &str) {
        self.state().spoilt.insert(id.to_owned());
    }

    /// Ids that could not be applied at some time.
    pub(crate) fn spoilt(&self) -> BTreeSet<String> {
        self.state().spoilt.clone()
    }

    /// A version was committed so long ago, and is in the read model now.
    pub(crate) fn arrived(&self, after: Duration) {
        let mut state = self.state();
        state.latest = state.latest.max(after);
    }

    /// Longest time until a version was in the read model.
    pub(crate) fn latest(&self) -> Duration {
        self.state().latest
    }

    /// A program is told of an id.
    pub(crate) fn told(&self, program: &str, id: &str) {
        let now = self.elapsed();
        let key = (program.to_owned(), id.to_owned());
        self.state().heard.entry(key).or_default().told = now;
    }

    /// A program asks for an id. However often it was told of it during the last call, one further
    /// call is all that it may cost; and where nothing fails, there is no other cause.
    pub(crate) fn asked(&self, program: &str, id: &str) {
        let now = self.elapsed();
        let key = (program.to_owned(), id.to_owned());
        let mut state = self.state();
        state.calls += 1;
        let heard = state.heard.entry(key).or_default();
        let nothing_new = heard.told < heard.asked;
        heard.asked = now;
        let may_fail = state.spoilt.contains(id);
        drop(state);
        if self.plan.profile == Profile::Benign && nothing_new && !may_fail {
            self.violated(format!("{program} asks for {id} once more, and was told nothing new"));
        }
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(crate) fn trace(&self) -> Vec<(Duration, String)> {
        self.state().trace.clone()
    }

    /// Tells one course of events from another.
    pub(crate) fn hash(&self) -> u64 {
        self.state().hash.finish()
    }
}

/// What a mutex guards, also when a run has panicked: its story is still to be told.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
