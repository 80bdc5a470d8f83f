//! What everyone in a run shares: time, random numbers, the story, and broken rules.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use nudge_chance::Random;
use nudge_protocol::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    broker::Broker,
    chance::{Chance, Draw},
    fault::Fault,
    mutant::Mutant,
    plan::Plan,
    profile::Profile,
};

/// The first instant of every run, in unix microseconds: a morning in 2026.
const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

/// A longer story counts as endless.
const MAX_LINES: usize = 20_000;

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
    trace: Vec<(Duration, String)>,
    hash: DefaultHasher,
    /// The story is too long: an endless loop ends here.
    endless: bool,
    violations: Vec<String>,
    skew_micros: i64,
    owner_back_at: Duration,
    /// The time, while database work runs on another clock.
    stopped: Option<Duration>,
    broker: Broker,
    calls: u64,
    works: u64,
    consequences: BTreeMap<Fault, u64>,
    latest: Duration,
    /// Which service could not apply which IDs at some time.
    spoilt: BTreeMap<String, BTreeSet<String>>,
    /// Which service got an old answer from the owner at some time, and for which ID.
    misled: BTreeSet<(String, String)>,
    /// When each program was last notified of each ID, and last asked for it.
    heard: BTreeMap<(String, String), Heard>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    told: Duration,
    asked: Duration,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let state = State {
            chance: Chance::new(plan.profile, plan.seed),
            healed: false,
            happened: Vec::new(),
            impossible: BTreeSet::new(),
            trace: Vec::new(),
            hash: DefaultHasher::new(),
            endless: false,
            violations: Vec::new(),
            skew_micros: 0,
            owner_back_at: Duration::ZERO,
            stopped: None,
            broker: Broker::default(),
            calls: 0,
            works: 0,
            consequences: BTreeMap::new(),
            latest: Duration::ZERO,
            spoilt: BTreeMap::new(),
            misled: BTreeSet::new(),
            heard: BTreeMap::new(),
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

    /// Whether the owner is away. It may go away at this moment, for at most this long.
    pub(crate) fn owner_is_down(&self, longest: Duration) -> bool {
        if self.strikes(Fault::OwnerDown) {
            let pause = self.length_of(Fault::OwnerDown, longest);
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

    /// Adds a line to the story.
    pub(crate) fn tell(&self, line: impl Into<String>) {
        let (at, line) = (self.elapsed(), line.into());
        let mut state = self.state();
        state.hash.write_u128(at.as_nanos());
        state.hash.write(line.as_bytes());
        if state.trace.len() < MAX_LINES {
            state.trace.push((at, line));
        } else if !state.endless {
            state.endless = true;
            state.violations.push(format!("a run without end: more than {MAX_LINES} lines"));
        }
    }

    /// Whether it is an endless loop: then every program ends.
    pub(crate) fn is_endless(&self) -> bool {
        self.state().endless
    }

    /// A rule is broken.
    pub(crate) fn violated(&self, rule: impl Into<String>) {
        let rule = rule.into();
        self.tell(format!("VIOLATED: {rule}"));
        self.state().violations.push(rule);
    }

    /// Reports a panic.
    pub(crate) fn panicked(&self, panic: &(dyn Any + Send)) {
        self.go_on();
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        self.violated(format!("a panic: {}", text.unwrap_or("no message")));
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.state().violations.is_empty()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
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

    /// The broker's state.
    pub(crate) fn with_broker<T>(&self, work: impl FnOnce(&mut Broker) -> T) -> T {
        work(&mut self.state().broker)
    }

    /// Records a consequence that a run of many seeds must have seen.
    pub(crate) fn note(&self, consequence: Fault) {
        *self.state().consequences.entry(consequence).or_default() += 1;
    }

    pub(crate) fn consequences(&self) -> BTreeMap<Fault, u64> {
        self.state().consequences.clone()
    }

    /// A service cannot apply an id from here on.
    pub(crate) fn spoil(&self, service: &str, id: &str) {
        self.state().spoilt.entry(service.to_owned()).or_default().insert(id.to_owned());
    }

    /// Ids that a service could not apply at some time.
    pub(crate) fn spoilt(&self, service: &str) -> BTreeSet<String> {
        self.state().spoilt.get(service).cloned().unwrap_or_default()
    }

    /// The owner answers a service with something old.
    pub(crate) fn mislead(&self, service: &str, id: &str) {
        self.state().misled.insert((service.to_owned(), id.to_owned()));
    }

    /// Whether it ever did.
    pub(crate) fn was_misled(&self, service: &str, id: &str) -> bool {
        self.state().misled.contains(&(service.to_owned(), id.to_owned()))
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

    /// A program is notified of an ID.
    pub(crate) fn told(&self, program: &str, id: &str) {
        let now = self.elapsed();
        let key = (program.to_owned(), id.to_owned());
        self.state().heard.entry(key).or_default().told = now;
    }

    /// A program of a service asks for an ID. However often it was notified of it during the last call, that may
    /// cost only one more call; and if nothing fails, there is no other cause.
    pub(crate) fn asked(&self, service: &str, program: &str, id: &str) {
        let now = self.elapsed();
        let key = (program.to_owned(), id.to_owned());
        let mut state = self.state();
        state.calls += 1;
        let heard = state.heard.entry(key).or_default();
        let nothing_new = heard.told < heard.asked;
        heard.asked = now;
        let may_fail = state.spoilt.get(service).is_some_and(|spoilt| spoilt.contains(id));
        drop(state);
        if self.plan.profile == Profile::Benign && nothing_new && !may_fail {
            self.violated(format!("{program} asks for {id} once more without a new notification"));
        }
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
        self.state().trace.clone()
    }

    /// The hash of the course of events.
    pub(crate) fn hash(&self) -> u64 {
        self.state().hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    /// Whatever goes round and round must end in a report, not in a process that is out of memory.
    #[tokio::test(start_paused = true)]
    async fn a_story_without_end_is_a_broken_rule_told_once() {
        let world = World::new(Plan::new(Profile::Benign, 0));
        (0..MAX_LINES - 1).for_each(|n| world.tell(format!("line {n}")));
        assert!(!world.is_endless() && !world.is_violated());
        (0..3).for_each(|_| world.tell("on and on"));
        assert!(world.is_endless());
        assert_eq!((world.violations().len(), world.trace().len()), (1, MAX_LINES));
    }
}
