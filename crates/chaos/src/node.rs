//! A simulated program: it may stand still, and end, at every boundary between it and the world.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_runtime::{
    BoxError,
    database::{Fate, Stepper},
};
use nudge_subscriber_kit::source::Delivery;
use tokio::{runtime::Handle, sync::Notify, sync::watch, time::sleep};

use crate::{
    broker::Stored,
    fault::Fault,
    world::{World, lock},
};

/// Longest time that a program stands still, longer than an acknowledgement may take.
const MAX_FREEZE: Duration = Duration::from_secs(45);
/// Usual time on the way to the broker, and back.
const USUAL: Duration = Duration::from_millis(2);
/// The same for what is late.
const LATE_DELIVERY: Duration = Duration::from_secs(2);
/// Longest time without a link to the broker.
const MAX_PARTITION: Duration = Duration::from_secs(15);
/// Longest time that a database takes.
const SLOW_DATABASE: Duration = Duration::from_secs(3);
/// Statements that a transaction waits for, at most, before a crash inside it.
const MAX_WAITS: u64 = 12;

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Relay,
    Subscriber,
}

/// See the module's description. A restart makes another.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    role: Role,
    runtime: Handle,
    dead: AtomicBool,
    died: Notify,
    frozen_until: Mutex<Duration>,
    down_until: Mutex<Duration>,
    owner_back_at: Mutex<Duration>,
    connections: watch::Sender<u64>,
}

impl Node {
    pub(crate) fn new(name: String, role: Role, world: Arc<World>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            name,
            world,
            role,
            runtime,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen_until: Mutex::default(),
            down_until: Mutex::default(),
            owner_back_at: Mutex::default(),
            connections: watch::Sender::new(1),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }

    /// Resolves when it has ended.
    pub(crate) async fn death(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Ends it: from here on nothing that it does reaches the world.
    pub(crate) fn crash(&self, why: &str) {
        if !self.dead.swap(true, SeqCst) {
            self.world.tell(format!("{} crashes {why}", self.name));
            self.died.notify_waiters();
        }
    }

    /// A boundary: the program may stand still here, or end.
    pub(crate) async fn boundary(&self, crash: Fault) {
        self.alive().await;
        if self.world.strikes(Fault::Freeze) {
            let pause = self.world.up_to(MAX_FREEZE);
            self.world.tell(format!("{} stands still for {pause:?}", self.name));
            *lock(&self.frozen_until) = self.world.elapsed() + pause;
            self.alive().await;
        }
        if self.world.strikes(crash) {
            self.crash(&format!("({crash})"));
            self.alive().await;
        }
    }

    /// Waits while it stands still; for ever once it has ended.
    pub(crate) async fn alive(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = *lock(&self.frozen_until);
            match until.checked_sub(self.world.elapsed()) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    }

    /// Whether there is a link to the broker. It may break just now.
    pub(crate) fn is_linked(self: &Arc<Self>) -> bool {
        if *lock(&self.down_until) > self.world.elapsed() {
            return false;
        }
        if self.world.strikes(Fault::Partition) {
            self.cut(self.world.up_to(MAX_PARTITION));
            return false;
        }
        true
    }

    /// Cuts the link for a while; then it is made again.
    pub(crate) fn cut(self: &Arc<Self>, pause: Duration) {
        self.world.tell(format!("{} is cut off for {pause:?}", self.name));
        *lock(&self.down_until) = self.world.elapsed() + pause;
        let node = self.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            node.connections.send_modify(|count| *count += 1);
        });
    }

    /// Whether this program reaches the owner. It may lose it just now.
    pub(crate) fn reaches_the_owner(&self) -> bool {
        let now = self.world.elapsed();
        if self.world.strikes(Fault::OwnerCutOff) {
            let pause = self.world.up_to(MAX_PARTITION);
            self.world.tell(format!("{} cannot reach the owner for {pause:?}", self.name));
            *lock(&self.owner_back_at) = now + pause;
        }
        *lock(&self.owner_back_at) <= now || self.world.is_healed()
    }

    pub(crate) fn is_a(&self, role: Role) -> bool {
        self.role == role
    }

    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// How long something is on its way between it and the broker.
    pub(crate) fn way(&self) -> Duration {
        let late = self.world.strikes(Fault::Delay);
        self.world.up_to(if late { LATE_DELIVERY } else { USUAL })
    }

    /// A message arrives.
    pub(crate) fn heard_of(&self, stored: &Stored, how: &str) {
        let Stored { subject, version, .. } = stored;
        self.world.tell(format!("broker → {}: {subject} {how} @{version:?}", self.name));
    }

    /// It looks at what has arrived.
    pub(crate) fn takes(&self, delivery: &Result<Delivery, BoxError>) {
        if let Ok(Delivery { subject, .. }) = delivery {
            let id = subject.rsplit('.').next().unwrap_or_default();
            self.world.told(&self.name, id);
        }
    }

    pub(crate) fn has_link(&self) -> bool {
        *lock(&self.down_until) <= self.world.elapsed()
    }
}

impl Stepper for Node {
    fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn pause(&self) -> Duration {
        match self.world.strikes(Fault::DatabaseSlow) {
            true => self.world.up_to(SLOW_DATABASE),
            false => Duration::ZERO,
        }
    }

    fn next(&self) -> Fate {
        let world = &self.world;
        let [before, inside, after] = match self.role {
            Role::Relay => [
                Fault::CrashRelayBeforeDatabase,
                Fault::CrashRelayInTransaction,
                Fault::CrashRelayAfterDatabase,
            ],
            Role::Subscriber => {
                [Fault::CrashBeforeDatabase, Fault::CrashInTransaction, Fault::CrashAfterDatabase]
            }
        };
        let fate = match () {
            _ if self.is_dead() => Fate::CrashBefore,
            _ if world.strikes(before) => Fate::CrashBefore,
            _ if world.strikes(inside) => Fate::CrashDuring(world.below(MAX_WAITS) as u32),
            _ if world.strikes(after) => Fate::CrashAfter,
            _ => Fate::Done,
        };
        world.stand_still();
        fate
    }

    fn over(&self) {
        self.world.go_on();
    }

    fn crashed(&self) {
        self.world.go_on();
        self.crash("in its database work");
    }
}
