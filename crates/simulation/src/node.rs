//! A simulated program: it may freeze and crash at every boundary between it and the world.

mod connections;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_chance::Random;
use nudge_runtime::database::Stepper;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify, sync::watch, time::sleep};

use crate::{
    broker::{Stored, named},
    fault::Fault,
    owner::Owner,
    world::World,
};
use connections::Connections;

/// Longest time that a program freezes, longer than an acknowledgement may take.
const MAX_FREEZE: Duration = Duration::from_secs(45);
/// Usual transit time to the broker, and back.
const USUAL: Duration = Duration::from_millis(2);
/// The same for what is late.
const LATE_DELIVERY: Duration = Duration::from_secs(2);
/// Longest time without a connection to the broker.
const MAX_PARTITION: Duration = Duration::from_secs(15);
/// Longest time that a database takes.
const SLOW_DATABASE: Duration = Duration::from_secs(3);
/// One in this many crashes inside a transaction is in the second of a unit of work, which rarely exists.
const IN_THE_SECOND: u64 = 4;

/// The kind of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Relay,
    Subscriber,
}

/// Where a program crashes in a unit of database work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doom {
    None,
    /// In a transaction, after this many others.
    Inside(u64),
    After,
}

/// See the module's description. A restart makes another.
pub(crate) struct Node {
    pub(crate) name: String,
    /// Whose it is: a service's, or the owner's. Its replicas share that.
    pub(crate) of: String,
    /// How often it was started.
    pub(crate) life: u64,
    pub(crate) world: Arc<World>,
    role: Role,
    runtime: Handle,
    /// For ordinary delays: its transit times.
    random: Mutex<Random>,
    /// What happens to it in the current unit of database work.
    doom: Mutex<Doom>,
    dead: AtomicBool,
    died: Notify,
    frozen_until: Mutex<Duration>,
    down_until: Mutex<Duration>,
    /// When it reaches each owner again, by the name of the owner's relays.
    owners_back_at: Mutex<BTreeMap<String, Duration>>,
    connections: Mutex<Connections>,
}

impl Node {
    /// The program `of` that, in this life of it.
    pub(crate) fn new(
        of: &str,
        (replica, life): (usize, u64),
        role: Role,
        world: Arc<World>,
        runtime: Handle,
    ) -> Arc<Self> {
        let (of, name) = (of.to_owned(), format!("{of}-{replica}.{life}"));
        let random = Mutex::new(world.random_of(&name));
        Arc::new(Self {
            name,
            of,
            life,
            world,
            role,
            runtime,
            random,
            doom: Mutex::new(Doom::None),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen_until: Mutex::default(),
            down_until: Mutex::default(),
            owners_back_at: Mutex::default(),
            connections: Mutex::new(Connections::first()),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(SeqCst) || self.world.is_endless()
    }

    /// A usual length of time, up to `max`.
    pub(crate) fn usual(&self, max: Duration) -> Duration {
        self.random.lock().up_to(max)
    }

    /// Resolves when it has ended.
    pub(crate) async fn death(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Crashes it: from here on nothing that it does reaches the world.
    pub(crate) fn crash(&self, why: &str) {
        if !self.dead.swap(true, SeqCst) {
            self.world.tell(format!("{} crashes {why}", self.name));
            self.died.notify_waiters();
        }
    }

    /// A boundary: the program may freeze here, or crash.
    pub(crate) async fn boundary(&self, crash: Fault) {
        self.alive().await;
        let freeze = self.of_role(Fault::FreezeRelay, Fault::FreezeSubscriber);
        if self.world.strikes(freeze) {
            let pause = self.world.length_of(freeze, MAX_FREEZE);
            self.world.tell(format!("{} freezes for {pause:?}", self.name));
            *self.frozen_until.lock() = self.world.elapsed() + pause;
            self.alive().await;
        }
        if self.world.strikes(crash) {
            self.crash(&format!("({crash})"));
            self.alive().await;
        }
    }

    /// Waits while it is frozen; forever once it has crashed.
    pub(crate) async fn alive(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            match self.frozen_for() {
                Duration::ZERO => return,
                left => sleep(left).await,
            }
        }
    }

    /// A random index below `many`.
    pub(crate) fn any_of(&self, many: usize) -> usize {
        self.random.lock().below(many as u64) as usize
    }

    pub(crate) fn frozen_for(&self) -> Duration {
        self.frozen_until.lock().saturating_sub(self.world.elapsed())
    }

    fn of_role<T>(&self, relay: T, subscriber: T) -> T {
        match self.role {
            Role::Relay => relay,
            Role::Subscriber => subscriber,
        }
    }

    /// Whether there is a connection to the broker. It may break at this moment.
    pub(crate) fn is_linked(self: &Arc<Self>) -> bool {
        if *self.down_until.lock() > self.world.elapsed() {
            return false;
        }
        let partition = self.of_role(Fault::PartitionRelay, Fault::PartitionSubscriber);
        if self.world.strikes(partition) {
            self.cut(self.world.length_of(partition, MAX_PARTITION));
            return false;
        }
        true
    }

    /// Cuts the connection for a while.
    pub(crate) fn cut(self: &Arc<Self>, pause: Duration) {
        self.world.tell(format!("{} is cut off for {pause:?}", self.name));
        *self.down_until.lock() = self.world.elapsed() + pause;
        let node = self.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            node.connections.lock().again();
        });
    }

    /// Whether this program reaches an owner. It may lose the connection at this moment.
    pub(crate) fn reaches(&self, owner: &Owner) -> bool {
        let now = self.world.elapsed();
        let mut back_at = self.owners_back_at.lock();
        if self.world.strikes(Fault::OwnerCutOff) {
            let pause = self.world.length_of(Fault::OwnerCutOff, MAX_PARTITION);
            self.world.tell(format!("{} cannot reach {} for {pause:?}", self.name, owner.name));
            back_at.insert(owner.relay.clone(), now + pause);
        }
        back_at.get(&owner.relay).is_none_or(|at| *at <= now) || self.world.is_healed()
    }

    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.lock().watch()
    }

    /// The transit time between it and the broker.
    pub(crate) fn way(&self) -> Duration {
        match self.world.strikes(Fault::Delay) {
            true => self.world.length_of(Fault::Delay, LATE_DELIVERY),
            false => self.usual(USUAL),
        }
    }

    /// A message arrives.
    pub(crate) fn heard_of(&self, stored: &Stored, how: &str) {
        self.world.tell(format!("broker → {}: {} {how}", self.name, named(stored)));
    }

    /// Crashes before, in and after database work.
    fn database_crashes(&self) -> [Fault; 3] {
        self.of_role(
            [
                Fault::CrashRelayBeforeDatabase,
                Fault::CrashRelayInTransaction,
                Fault::CrashRelayAfterDatabase,
            ],
            [Fault::CrashBeforeDatabase, Fault::CrashInTransaction, Fault::CrashAfterDatabase],
        )
    }

    pub(crate) fn has_link(&self) -> bool {
        *self.down_until.lock() <= self.world.elapsed()
    }
}

impl Stepper for Node {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn pause(&self) -> Duration {
        match self.world.strikes(Fault::DatabaseSlow) {
            true => self.world.length_of(Fault::DatabaseSlow, SLOW_DATABASE),
            false => Duration::ZERO,
        }
    }

    fn stands_still(&self) -> Duration {
        self.frozen_for()
    }

    fn begins(&self) {
        let world = &self.world;
        let [before, inside, after] = self.database_crashes();
        if !self.is_dead() && world.strikes(before) {
            self.crash("before its database work");
        }
        let doom = match () {
            () if self.is_dead() => Doom::None,
            () if world.strikes(inside) => {
                Doom::Inside(u64::from(world.pick(inside, IN_THE_SECOND) == 0))
            }
            () if world.strikes(after) => Doom::After,
            () => Doom::None,
        };
        *self.doom.lock() = doom;
        world.works();
        world.stand_still();
    }

    fn in_transaction(&self) {
        let mut doom = self.doom.lock();
        *doom = match *doom {
            Doom::Inside(0) => {
                self.crash("in a transaction, which is rolled back");
                Doom::None
            }
            Doom::Inside(others) => Doom::Inside(others - 1),
            other => other,
        };
    }

    fn ends(&self, done: bool) {
        self.world.go_on();
        let [_, inside, after] = self.database_crashes();
        let doom = std::mem::replace(&mut *self.doom.lock(), Doom::None);
        if done && matches!(doom, Doom::Inside(_)) {
            // There was no such transaction, so that all of it is done.
            self.world.turned_out(inside, after);
        }
        if done && doom != Doom::None {
            self.crash("after its database work");
        }
    }

    fn has_crashed(&self) -> bool {
        self.is_dead()
    }
}

#[cfg(test)]
mod tests;
