//! What everyone in a run shares: time, random numbers, the story, and broken rules.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use nudge_chance::Random;
use nudge_protocol::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    chance::{Chance, Draw},
    fault::Fault,
    mutant::Mutant,
    plan::Plan,
    profile::Profile,
    story::Story,
};

/// The first instant of every run, in unix microseconds: a morning in 2026.
const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

/// A fault that happened.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) draw: Draw,
    /// What it turned out to be.
    pub(crate) fault: Fault,
}

/// See the module documentation.
pub(crate) struct World {
    plan: Plan,
    start: Instant,
    state: Mutex<State>,
}

struct State {
    chance: Chance,
    /// Faults are drawn, but do not happen.
    healed: bool,
    happened: Vec<Happened>,
    impossible: BTreeSet<Fault>,
    story: Story,
    skew_micros: i64,
    /// The time, while database work runs on another clock.
    stopped: Option<Duration>,
    calls: u64,
    works: u64,
    consequences: BTreeMap<Fault, u64>,
    latest: Duration,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let state = State {
            chance: Chance::new(plan.profile, plan.seed),
            healed: false,
            happened: Vec::new(),
            impossible: BTreeSet::new(),
            story: Story::default(),
            skew_micros: 0,
            stopped: None,
            calls: 0,
            works: 0,
            consequences: BTreeMap::new(),
            latest: Duration::ZERO,
        };
        let world = Self { plan, start: Instant::now(), state: Mutex::new(state) };
        let faults = world.profile().faults().iter().map(|(fault, _)| *fault);
        let off: Vec<_> = faults.filter(|fault| !world.may(*fault)).collect();
        world.tell(format!("faults that do not happen in this run: {off:?}"));
        Arc::new(world)
    }

    pub(crate) fn profile(&self) -> Profile {
        self.plan.profile
    }

    /// The fault that is planted, if one is.
    pub(crate) fn mutant(&self) -> Option<Mutant> {
        self.plan.mutant
    }

    /// Whether the broker of this run can look up subjects: an older one cannot.
    pub(crate) fn broker_looks_up(&self) -> bool {
        !self.plan.seed.is_multiple_of(4)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(EPOCH_MICROS + elapsed + self.state().skew_micros)
    }

    /// Makes clocks jump.
    pub(crate) fn skew(&self, micros: i64) {
        self.state().skew_micros = micros;
    }

    /// Adds a line to the story.
    pub(crate) fn tell(&self, line: impl Into<String>) {
        let (at, line) = (self.elapsed(), line.into());
        self.state().story.tell(at, line);
    }

    /// Whether it is an endless loop: then every program ends.
    pub(crate) fn is_endless(&self) -> bool {
        self.state().story.is_endless()
    }

    /// A rule is broken.
    pub(crate) fn violated(&self, rule: impl Into<String>) {
        let (at, rule) = (self.elapsed(), rule.into());
        self.state().story.violated(at, rule);
    }

    /// Reports a panic.
    pub(crate) fn panicked(&self, panic: &(dyn Any + Send)) {
        self.go_on();
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        self.violated(format!("a panic: {}", text.unwrap_or("no message")));
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.state().story.violations().is_empty()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().story.violations().to_vec()
    }

    /// A number below `limit`, for what the owner does and what happens to everyone.
    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.state().chance.script.below(limit)
    }

    /// A length of time for the same, up to `max`, at least a microsecond.
    pub(crate) fn up_to(&self, max: Duration) -> Duration {
        self.state().chance.script.up_to(max)
    }

    /// Runs with the random numbers of the same.
    pub(crate) fn with_random<T>(&self, work: impl FnOnce(&mut Random) -> T) -> T {
        work(&mut self.state().chance.script)
    }

    /// The random numbers of this name.
    pub(crate) fn random_of(&self, name: &str) -> Random {
        self.state().chance.of(name)
    }

    /// Whether this fault may happen in this run at all.
    pub(crate) fn may(&self, fault: Fault) -> bool {
        self.state().chance.may(fault)
    }

    /// Makes this fault happen when it next can.
    pub(crate) fn force(&self, fault: Fault) {
        self.state().chance.force(fault);
    }

    /// Whether this fault happens now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        let mut state = self.state();
        let Some(draw) = state.chance.draw(fault).filter(|_| !state.healed) else {
            return false;
        };
        if self.plan.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&draw)) {
            return false;
        }
        state.happened.push(Happened { draw, fault });
        drop(state);
        self.tell(format!("fault: {fault} #{}", draw.1));
        true
    }

    /// This fault cannot happen in this run.
    pub(crate) fn rule_out(&self, fault: Fault) {
        self.state().impossible.insert(fault);
    }

    pub(crate) fn impossible(&self) -> BTreeSet<Fault> {
        self.state().impossible.clone()
    }

    /// Whether this fault has happened.
    pub(crate) fn has_happened(&self, fault: Fault) -> bool {
        self.state().happened.iter().any(|happened| happened.fault == fault)
    }

    /// A number below `limit` about the fault that just happened.
    pub(crate) fn pick(&self, fault: Fault, limit: u64) -> u64 {
        self.state().chance.about(fault).below(limit)
    }

    /// How long the fault that just happened lasts.
    pub(crate) fn length_of(&self, fault: Fault, max: Duration) -> Duration {
        self.state().chance.about(fault).up_to(max)
    }

    /// The intended fault turned out to be another.
    pub(crate) fn turned_out(&self, fault: Fault, to_be: Fault) {
        let mut state = self.state();
        if let Some(last) = state.happened.iter_mut().rev().find(|one| one.fault == fault) {
            last.fault = to_be;
        }
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

    /// Records a consequence that a run of many seeds must have seen.
    pub(crate) fn note(&self, consequence: Fault) {
        *self.state().consequences.entry(consequence).or_default() += 1;
    }

    pub(crate) fn consequences(&self) -> BTreeMap<Fault, u64> {
        self.state().consequences.clone()
    }

    /// A version that was committed this long ago is now in the read model.
    pub(crate) fn arrived(&self, after: Duration) {
        let mut state = self.state();
        state.latest = state.latest.max(after);
    }

    /// Longest time until a version was in the read model.
    pub(crate) fn latest(&self) -> Duration {
        self.state().latest
    }

    /// A callback is made for one ID.
    pub(crate) fn called(&self) {
        self.state().calls += 1;
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Notes that work begins which may change a database.
    pub(crate) fn works(&self) {
        self.state().works += 1;
    }

    /// How often such work began. While that stays the same, so does every database.
    pub(crate) fn works_so_far(&self) -> u64 {
        self.state().works
    }

    pub(crate) fn trace(&self) -> Vec<(Duration, String)> {
        self.state().story.lines().to_vec()
    }

    /// The hash of the course of events.
    pub(crate) fn hash(&self) -> u64 {
        self.state().story.hash()
    }
}
